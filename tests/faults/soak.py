"""`python -m tests.faults.soak --minutes 30`: all scenarios in random order, again and again, and the totals."""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import scenarios
from tests.faults.fault_postgres import fault_postgres
from tests.faults.play import SCENARIOS, Played, play


@dataclass(slots=True)
class Totals:
    """What all plays come to."""

    plays: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    granted: int = 0
    in_fault: int = 0
    unknown: int = 0
    times_to_good_s: list[float] = field(default_factory=list)
    broken: list[Played] = field(default_factory=list)

    def add(self, played: Played) -> None:
        found = played.findings
        self.plays += 1
        self.faults += played.faults
        self.excused += found.excused
        self.requests += found.requests
        self.granted += found.granted
        self.in_fault += found.in_fault
        self.unknown += found.unknown
        self.times_to_good_s += played.times_to_good_s
        if found.violations:
            self.broken.append(played)

    def lines(self) -> Iterator[str]:
        yield f"plays {self.plays}, faults {self.faults.total()}:"
        for kind, count in sorted(self.faults.items()):
            yield f"  {count:5} {kind}"
        share = 100 * self.in_fault / max(1, self.requests)
        yield f"requests {self.requests}, in flight at a fault {self.in_fault} ({share:.1f} %), unknown {self.unknown}"
        yield f"redemptions {self.granted}"
        yield f"explained by set-aside seqs: {dict(self.excused) or 'nothing'}"
        if self.times_to_good_s:
            times = sorted(self.times_to_good_s)
            yield (
                f"from Redis' death (kill -9) to the first good answer, its own restart included: median"
                f" {statistics.median(times):.2f} s, worst {times[-1]:.2f} s of {len(times)}"
            )
        yield f"violations: {sum(len(played.findings.violations) for played in self.broken)}"
        for played in self.broken:
            yield f"  {played.name}, seed {played.seed}:"
            yield from (f"    {violation}" for violation in played.findings.violations)


def _order(rng: random.Random) -> Iterator[str]:
    """Every scenario once, in random order, then again."""
    while True:
        yield from rng.sample(sorted(SCENARIOS), len(SCENARIOS))


def soak(minutes: float, seed: str, rounds: int, only: str) -> Totals:
    rng, totals = random.Random(seed), Totals()
    directory = Path(tempfile.mkdtemp(prefix="issuer-soak-"))
    end = time.monotonic() + minutes * 60
    with fault_postgres(directory / "postgres") as postgres:
        for number, name in enumerate(_order(rng)):
            if time.monotonic() > end:
                break
            if only not in name:
                continue
            place = directory / f"{number}-{name}"
            played = play(SCENARIOS[name], f"{seed}/{number}", place, postgres, rounds=rounds)
            totals.add(played)
            found = played.findings
            print(
                f"{name} seed {seed}/{number}: {played.seconds:.0f} s, {played.faults.total()} faults,"
                f" {found.granted} redemptions, {len(found.violations)} violations",
                flush=True,
            )
            for violation in found.violations:
                print(f"  {violation}", flush=True)
            if not found.violations:
                shutil.rmtree(place)
    if totals.broken:
        print(f"logs of what was broken: {directory}")
    else:
        shutil.rmtree(directory)
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--rounds", type=int, default=3, help="how often a scenario does its worst in one play")
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    options = parser.parse_args()
    assert scenarios.LOADED
    print(f"seed {options.seed}", flush=True)
    totals = soak(options.minutes, options.seed, options.rounds, options.only)
    print("\n".join(totals.lines()))
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(main())
