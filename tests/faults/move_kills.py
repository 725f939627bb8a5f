"""`python -m tests.faults.move_kills --rounds 7`: kill every part at every step of a move, then audit the installation.

A round is one kill -9 of API, worker, Redis and Postgres each at each step: 32 kills in two minutes. With `--wipe`
Redis also loses its data once at each step.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.fault_postgres import fault_postgres
from tests.faults.move_audit import audit_moves
from tests.faults.move_world import WIPED, MoveWorld
from tests.faults.scenario import TEMPLATE
from tests.support.failpoints import STEPS
from tests.support.servers import PostgresServer, wait_until

VICTIMS: Final = ("api", "worker", "redis", "postgres")


@dataclass(frozen=True, slots=True)
class MoveKills:
    """The figures of one run."""

    violations: list[str]
    kills: Counter[tuple[str, str]]
    outcomes: Counter[str]
    repeats: int
    settle_times_s: list[float]
    seconds: float

    def __str__(self) -> str:
        times = sorted(self.settle_times_s)
        steps = Counter[str]()
        for (step, _), count in self.kills.items():
            steps[step] += count
        return (
            f"{sum(self.kills.values())} kills in {self.seconds:.0f} s; by step {dict(steps)}; moves"
            f" {dict(self.outcomes)}; {self.repeats} repeats; settled after the return of all within"
            f" {times[-1]:.2f} s at most, {statistics.median(times):.2f} s in the median"
        )


def kill_moves(
    directory: Path, postgres: PostgresServer, plan: Sequence[tuple[str, str]], *, seed: str, moves: int = 0
) -> MoveKills:
    """Kill the victim of each (step, victim) there, in any order, while customers send `moves` requests; then audit."""
    began = time.monotonic()
    database = "move_kills"
    postgres.psql(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    with MoveWorld(directory, postgres, postgres.url(database), seed=seed) as world:
        world.customers.start()
        for step, victim in random.Random(seed).sample(plan, len(plan)):
            world.kill_at(step, victim)
        world.settle_a_day_later()
        wait_until(lambda: len(world.customers.answers) >= moves, f"{moves} requests are answered", 600)
        world.customers.stop()
        violations = audit_moves(world)
        rows = world.sql("SELECT kind || ' ' || state AS outcome, count(*) FROM moves GROUP BY 1")
        outcomes = Counter({row["outcome"]: row["count"] for row in rows})
    postgres.psql(f"DROP DATABASE {database} WITH (FORCE)")
    return MoveKills(
        violations, world.kills, outcomes, world.customers.repeats, world.settle_times_s, time.monotonic() - began
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--moves", type=int, default=1_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--wipe", action="store_true")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="issuer-moves-"))
    with fault_postgres(directory / "postgres") as postgres:
        plan = [(step, victim) for step in STEPS for victim in VICTIMS] * options.rounds
        if options.wipe:
            plan += [(step, WIPED) for step in STEPS]
        result = kill_moves(directory, postgres, plan, seed=options.seed, moves=options.moves)
    print(result, *result.violations, f"logs: {directory}", sep="\n")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
