"""`python -m tests.faults.soak --minutes 60`: run scenarios repeatedly, rare faults first, and print the totals."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

from tests.faults import all_scenarios
from tests.faults.fault_postgres import fault_postgres
from tests.faults.scenario import SCENARIOS, ScenarioResult, run_scenario
from tests.faults.totals import MIN_FAULTS, Totals

ROUNDS: Final = 5


class ScenarioSchedule:
    """Selects the next scenario: each once in random order, then the one that injects the rarest fault fastest."""

    def __init__(self, rng: random.Random, names: list[str], least: int) -> None:
        self._rng = rng
        self._names = names
        self._least = least
        self._first = rng.sample(names, len(names))
        self._faults: Counter[str] = Counter()
        self._speed: dict[str, dict[str, float]] = defaultdict(dict)

    def record(self, result: ScenarioResult) -> None:
        """Record the faults of a run and the time it took."""
        self._faults += result.faults
        for kind, count in result.faults.items():
            self._speed[kind][result.name] = count / result.seconds

    def next(self) -> str:
        if self._first:
            return self._first.pop()
        kind, count = min(self._faults.items(), key=lambda item: (item[1], item[0]))
        if count >= self._least:
            return self._rng.choice(self._names)
        return max(self._speed[kind], key=lambda name: self._speed[kind][name])


def soak(minutes: float, seed: str, rounds: int, only: str, least: int, file: Path | None) -> Totals:
    totals = Totals()
    schedule = ScenarioSchedule(random.Random(seed), sorted(name for name in SCENARIOS if only in name), least)
    directory = Path(tempfile.mkdtemp(prefix="issuer-soak-"))
    end = time.monotonic() + minutes * 60
    with fault_postgres(directory / "postgres") as postgres:
        while time.monotonic() < end:
            name = schedule.next()
            run_directory = directory / f"{totals.runs}-{name}"
            result = run_scenario(SCENARIOS[name], f"{seed}/{totals.runs}", run_directory, postgres, rounds=rounds)
            schedule.record(result)
            totals.add(result)
            if file is not None:
                totals.save(file)
            _print(result)
            if not result.findings.violations:
                shutil.rmtree(run_directory)
    if totals.broken:
        print(f"logs of the runs with violations: {directory}")
    else:
        shutil.rmtree(directory)
    return totals


def _print(result: ScenarioResult) -> None:
    found = result.findings
    print(
        f"{result.name} seed {result.seed}: {result.seconds:.0f} s, {result.faults.total()} faults,"
        f" {found.granted} redemptions, {len(found.violations)} violations",
        flush=True,
    )
    for violation in found.violations:
        print(f"  {violation}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of faults in one run of a scenario")
    parser.add_argument("--only", default="", help="run only scenarios whose name contains this text")
    parser.add_argument("--least", type=int, default=MIN_FAULTS, help="target number of faults of each kind")
    parser.add_argument("--totals", type=Path, help="file for `python -m tests.faults.totals`, written after each run")
    options = parser.parse_args()
    assert all_scenarios.LOADED
    print(f"seed {options.seed}", flush=True)
    totals = soak(options.minutes, options.seed, options.rounds, options.only, options.least, options.totals)
    print("\n".join(totals.lines(options.least)))
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(main())
