"""Scenarios by name, and how one is played: a world, customers in it, faults, the audit."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.audit import Findings, audit
from tests.faults.world import FaultWorld
from tests.support.servers import PostgresServer

TEMPLATE: Final = "fault_template"
_numbers = itertools.count(1)


@dataclass(slots=True)
class FaultStage:
    """What a scenario gets: the world, its dice, and how often it should do its worst."""

    world: FaultWorld
    rng: random.Random
    rounds: int

    def pick(self, *choices: float) -> float:
        return self.rng.choice(choices)

    def play_on(self, most: int = 300) -> None:
        """Lets customers redeem for a while, not always equally long, so that the fault falls anywhere."""
        self.world.traffic.wait_granted(self.rng.randint(most // 4, most))


Act = Callable[[FaultStage], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A way to break things, and what it may cost.

    `loss`: codes may be quarantined. `missing`: redemptions may be missing too, as far as their seqs are quarantined.
    `world`: arguments of its world.
    """

    name: str
    act: Act
    loss: bool = False
    missing: bool = False
    anomalies: tuple[str, ...] = ()
    dead_letters: bool = False
    world: dict[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *,
    loss: bool = False,
    missing: bool = False,
    anomalies: tuple[str, ...] = (),
    dead_letters: bool = False,
    **world: Any,
) -> Callable[[Act], Act]:
    """Registers a function under its name. Further arguments are the world's."""

    def register(act: Act) -> Act:
        SCENARIOS[act.__name__] = Scenario(act.__name__, act, loss, missing, anomalies, dead_letters, world)
        return act

    return register


@dataclass(frozen=True, slots=True)
class Played:
    """How a play went."""

    name: str
    seed: str
    rounds: int
    findings: Findings
    faults: Counter[str]
    times_to_good_s: list[float]
    seconds: float


def play(
    chosen: Scenario, seed: str, directory: Path, postgres: PostgresServer, *, rounds: int = 1, **more: Any
) -> Played:
    """Plays a scenario in a world of its own. The seed fixes the dice, not the machine's timing."""
    started = time.monotonic()
    database = f"fault_{next(_numbers)}"
    postgres.psql(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    settings = chosen.world | more
    world = FaultWorld(directory, postgres, postgres.url(database), seed=seed, rounds=rounds, **settings)
    try:
        with world:
            findings = _perform(chosen, FaultStage(world, random.Random(seed), rounds))
    except Exception as error:
        # Not the end of a soak: what could not be started, asked or stopped is a finding like any other.
        findings = Findings([f"the play broke off: {type(error).__name__}: {error}"])
    if postgres.process is None:
        start_again(postgres)
    postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")
    seconds = time.monotonic() - started
    return Played(chosen.name, seed, rounds, findings, world.faults, world.times_to_good_s, seconds)


def start_again(postgres: PostgresServer) -> None:
    """After a kill -9 its children need a moment to notice, and it does not start before they are gone."""
    deadline = time.monotonic() + 20
    while True:
        try:
            postgres.start()
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _perform(chosen: Scenario, stage: FaultStage) -> Findings:
    world = stage.world
    world.traffic.start()
    trouble = ""
    try:
        chosen.act(stage)
    except (AssertionError, RuntimeError, TimeoutError) as error:
        trouble = f"the scenario did not get to its end: {error}"
    world.traffic.stop()
    findings = audit(
        world, loss=chosen.loss, missing=chosen.missing, anomalies=chosen.anomalies, dead_letters=chosen.dead_letters
    )
    if trouble:
        findings.accuse(f"{trouble} ({world.stock()})")
    return findings
