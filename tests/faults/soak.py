"""`python -m tests.faults.soak --minutes 60`: every scenario again and again, rare faults first, and the totals."""

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

from tests.faults import scenarios
from tests.faults.fault_postgres import fault_postgres
from tests.faults.play import SCENARIOS, Played, play
from tests.faults.totals import LEAST, Totals

ROUNDS: Final = 5


class Programme:
    """What is played next: every scenario once, in random order, then what brings forward the rarest kind of fault."""

    def __init__(self, rng: random.Random, names: list[str], least: int) -> None:
        self._rng = rng
        self._names = names
        self._least = least
        self._first = rng.sample(names, len(names))
        self._faults: Counter[str] = Counter()
        self._speed: dict[str, dict[str, float]] = defaultdict(dict)

    def learn(self, played: Played) -> None:
        """Takes a play into account: which faults it brought, in what time."""
        self._faults += played.faults
        for kind, count in played.faults.items():
            self._speed[kind][played.name] = count / played.seconds

    def next(self) -> str:
        if self._first:
            return self._first.pop()
        kind, count = min(self._faults.items(), key=lambda item: (item[1], item[0]))
        if count >= self._least:
            return self._rng.choice(self._names)
        return max(self._speed[kind], key=lambda name: self._speed[kind][name])


def soak(minutes: float, seed: str, rounds: int, only: str, least: int, file: Path | None) -> Totals:
    totals = Totals()
    programme = Programme(random.Random(seed), sorted(name for name in SCENARIOS if only in name), least)
    directory = Path(tempfile.mkdtemp(prefix="issuer-soak-"))
    end = time.monotonic() + minutes * 60
    with fault_postgres(directory / "postgres") as postgres:
        while time.monotonic() < end:
            name = programme.next()
            place = directory / f"{totals.plays}-{name}"
            played = play(SCENARIOS[name], f"{seed}/{totals.plays}", place, postgres, rounds=rounds)
            programme.learn(played)
            totals.add(played)
            if file is not None:
                totals.save(file)
            _tell(played)
            if not played.findings.violations:
                shutil.rmtree(place)
    if totals.broken:
        print(f"logs of what was broken: {directory}")
    else:
        shutil.rmtree(directory)
    return totals


def _tell(played: Played) -> None:
    found = played.findings
    print(
        f"{played.name} seed {played.seed}: {played.seconds:.0f} s, {played.faults.total()} faults,"
        f" {found.granted} redemptions, {len(found.violations)} violations",
        flush=True,
    )
    for violation in found.violations:
        print(f"  {violation}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often a scenario does its worst in one play")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--least", type=int, default=LEAST, help="faults of each kind to aim at")
    parser.add_argument("--totals", type=Path, help="file for `python -m tests.faults.totals`, written after each play")
    options = parser.parse_args()
    assert scenarios.LOADED
    print(f"seed {options.seed}", flush=True)
    totals = soak(options.minutes, options.seed, options.rounds, options.only, options.least, options.totals)
    print("\n".join(totals.lines(options.least)))
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(main())
