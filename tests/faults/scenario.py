"""Scenarios by name, and how one runs: a world, traffic in it, faults, the audit."""

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
class ScenarioContext:
    """What a scenario works with: its world, its random numbers, and how many rounds of faults to inject."""

    world: FaultWorld
    rng: random.Random
    rounds: int

    def pick(self, *choices: float) -> float:
        return self.rng.choice(choices)

    def pause(self, most_s: float) -> None:
        """Wait for a random while, so that the next step occurs at any moment of what the fault began."""
        time.sleep(self.rng.uniform(0, most_s))

    def run_traffic(self, most: int = 300) -> None:
        """Let customers redeem for a random while, so that the next fault occurs at any moment."""
        self.world.traffic.wait_granted(self.rng.randint(most // 4, most))


ScenarioFunction = Callable[[ScenarioContext], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A function that injects faults, and the consequences that are allowed.

    `loss`: codes may be quarantined. `missing`: redemptions may also be missing if their seqs are quarantined.
    Without either, nothing that was answered changes, and at the end no code is quarantined. `anomalies`: kinds that
    must be recorded; `tolerated`: kinds that may be. `world`: arguments of its
    world.
    """

    name: str
    act: ScenarioFunction
    loss: bool = False
    missing: bool = False
    anomalies: tuple[str, ...] = ()
    tolerated: tuple[str, ...] = ()
    dead_letters: bool = False
    world: dict[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *,
    loss: bool = False,
    missing: bool = False,
    twin: bool = False,
    anomalies: tuple[str, ...] = (),
    tolerated: tuple[str, ...] = (),
    dead_letters: bool = False,
    **world: Any,
) -> Callable[[ScenarioFunction], ScenarioFunction]:
    """Register a function under its name. Further arguments are passed to the world.

    One whose losses are allowed runs without receipt journals unless it names `hosts`. `twin`: it is registered as
    NAME_with_journal as well, where the journals survive and so no loss is allowed.
    """

    def register(act: ScenarioFunction) -> ScenarioFunction:
        name, kinds = act.__name__, (anomalies, tolerated, dead_letters)
        hosts = {"hosts": 0} if loss or missing else {}
        SCENARIOS[name] = Scenario(name, act, loss, missing, *kinds, hosts | world)
        if twin:
            SCENARIOS[f"{name}_with_journal"] = Scenario(f"{name}_with_journal", act, False, False, *kinds, world)
        return act

    return register


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """The result of one run of a scenario."""

    name: str
    seed: str
    rounds: int
    findings: Findings
    faults: Counter[str]
    recovery_times_s: list[float]
    seconds: float


def run_scenario(
    chosen: Scenario, seed: str, directory: Path, postgres: PostgresServer, *, rounds: int = 1, **more: Any
) -> ScenarioResult:
    """Run a scenario in a world of its own. The seed fixes the random numbers, not the timing of the machine."""
    started = time.monotonic()
    database = f"fault_{next(_numbers)}"
    postgres.psql(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    settings = chosen.world | more
    world = FaultWorld(directory, postgres, postgres.url(database), seed=seed, rounds=rounds, **settings)
    try:
        with world:
            findings = _run_in_world(chosen, ScenarioContext(world, random.Random(seed), rounds))
    except Exception as error:
        # A process that could not be started, queried or stopped is a violation like any other and does not end a soak.
        findings = Findings([f"the scenario was aborted: {type(error).__name__}: {error}"])
    if postgres.process is None:
        start_again(postgres)
    postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")
    seconds = time.monotonic() - started
    return ScenarioResult(chosen.name, seed, rounds, findings, world.faults, world.recovery_times_s, seconds)


def start_again(postgres: PostgresServer) -> None:
    """Start Postgres after a kill -9. Retry while its old child processes are still exiting."""
    deadline = time.monotonic() + 20
    while True:
        try:
            postgres.start()
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _run_in_world(chosen: Scenario, context: ScenarioContext) -> Findings:
    world = context.world
    world.traffic.start()
    failure = ""
    try:
        chosen.act(context)
    except (AssertionError, RuntimeError, TimeoutError) as error:
        failure = f"the scenario failed: {error}"
    world.traffic.stop()
    findings = audit(
        world, loss=chosen.loss, missing=chosen.missing, anomalies=chosen.anomalies, tolerated=chosen.tolerated,
        dead_letters=chosen.dead_letters,
    )  # fmt: skip
    if failure:
        findings.add_violation(f"{failure} ({world.stock()})")
    return findings
