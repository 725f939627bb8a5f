"""What plays come to: `python -m tests.faults.totals FILE…` adds up what several soaks have left behind."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Self

import orjson

from tests.faults.play import Played

LEAST: Final = 20
"""Faults of each kind that a soak should have, to count."""


@dataclass(slots=True)
class Totals:
    """The sum of all plays. `broken`: by play (name and seed), what the audit found."""

    plays: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    granted: int = 0
    in_fault: int = 0
    unknown: int = 0
    quarantined: int = 0
    times_to_good_s: list[float] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)

    def add(self, played: Played) -> None:
        found = played.findings
        self.plays += 1
        self.seconds += played.seconds
        self.faults += played.faults
        self.excused += found.excused
        self.requests += found.requests
        self.granted += found.granted
        self.in_fault += found.in_fault
        self.unknown += found.unknown
        self.quarantined += found.quarantined
        self.times_to_good_s += played.times_to_good_s
        if found.violations:
            self.broken[f"{played.name}, seed {played.seed}, rounds {played.rounds}"] = found.violations

    def merge(self, other: Totals) -> None:
        """Adds what another soak came to."""
        for name in ("plays", "seconds", "requests", "granted", "in_fault", "unknown", "quarantined"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults
        self.excused += other.excused
        self.times_to_good_s += other.times_to_good_s
        self.broken |= other.broken

    def lines(self, least: int = LEAST) -> Iterator[str]:
        """The report, for a person."""
        yield f"plays {self.plays} ({self.seconds / 60:.0f} min), faults {self.faults.total()}:"
        for kind, count in sorted(self.faults.items()):
            yield f"  {count:5} {kind}"
        share = 100 * self.in_fault / max(1, self.requests)
        yield f"requests {self.requests}, in flight at a fault {self.in_fault} ({share:.1f} %), unknown {self.unknown}"
        yield f"redemptions {self.granted}, codes quarantined {self.quarantined}"
        yield f"explained by quarantined seqs: {dict(self.excused) or 'nothing'}"
        if self.times_to_good_s:
            times = sorted(self.times_to_good_s)
            yield (
                f"from Redis' death (kill -9) to the first good answer, its own restart included: median"
                f" {statistics.median(times):.2f} s, worst {times[-1]:.2f} s of {len(times)}"
            )
        yield f"violations: {sum(map(len, self.broken.values()))}"
        for play, violations in self.broken.items():
            yield f"  {play}:"
            yield from (f"    {violation}" for violation in violations)
        rare = sorted(kind for kind, count in self.faults.items() if count < least)
        yield f"kinds of fault with fewer than {least}: {', '.join(rare) or 'none'}"

    def save(self, file: Path) -> None:
        file.write_bytes(orjson.dumps({field.name: getattr(self, field.name) for field in fields(self)}))

    @classmethod
    def load(cls, file: Path) -> Self:
        saved = orjson.loads(file.read_bytes())
        return cls(**saved | {"faults": Counter(saved["faults"]), "excused": Counter(saved["excused"])})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="+", type=Path, help="left by soak --totals FILE")
    total = Totals()
    for file in parser.parse_args().file:
        total.merge(Totals.load(file))
    print("\n".join(total.lines()))
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
