"""Totals of runs: `python -m tests.faults.totals FILE…` adds up the totals that several soaks stored."""

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

from tests.faults.scenario import ScenarioResult

MIN_FAULTS: Final = 20
"""Faults of each kind that a meaningful soak has at least."""

COLUMNS: Final = ("runs", "faults", "redemptions", "quarantined", "violations")


@dataclass(slots=True)
class Totals:
    """The totals of all runs. `broken`: the violations by run (name, seed, rounds). `scenarios`: figures by name."""

    runs: int = 0
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    granted: int = 0
    in_fault: int = 0
    unknown: int = 0
    quarantined: int = 0
    recovery_times_s: list[float] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    scenarios: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, result: ScenarioResult) -> None:
        found = result.findings
        self.runs += 1
        self.seconds += result.seconds
        self.faults += result.faults
        self.explained += found.explained
        self.requests += found.requests
        self.granted += found.granted
        self.in_fault += found.in_fault
        self.unknown += found.unknown
        self.quarantined += found.quarantined
        self.recovery_times_s += result.recovery_times_s
        figures = {"runs": 1, "faults": result.faults.total(), "redemptions": found.granted,
                   "quarantined": found.quarantined, "violations": len(found.violations)}  # fmt: skip
        self.scenarios.setdefault(result.name, Counter()).update(figures)
        if found.violations:
            self.broken[f"{result.name}, seed {result.seed}, rounds {result.rounds}"] = found.violations

    def merge(self, other: Totals) -> None:
        """Add the totals of another soak."""
        for name in ("runs", "seconds", "requests", "granted", "in_fault", "unknown", "quarantined"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults += other.faults
        self.explained += other.explained
        self.recovery_times_s += other.recovery_times_s
        self.broken |= other.broken
        for name, figures in other.scenarios.items():
            self.scenarios.setdefault(name, Counter()).update(figures)

    def lines(self, least: int = MIN_FAULTS) -> Iterator[str]:
        """Yield the lines of the report."""
        yield f"runs {self.runs} ({self.seconds / 60:.0f} min), faults {self.faults.total()}:"
        for kind, count in sorted(self.faults.items()):
            yield f"  {count:5} {kind}"
        yield " ".join(f"{column:>11}" for column in COLUMNS) + " scenario"
        for name, figures in sorted(self.scenarios.items()):
            yield " ".join(f"{figures[column]:11}" for column in COLUMNS) + f" {name}"
        share = 100 * self.in_fault / max(1, self.requests)
        yield f"requests {self.requests}, in flight at a fault {self.in_fault} ({share:.1f} %), unknown {self.unknown}"
        yield f"redemptions {self.granted}, codes quarantined {self.quarantined}"
        yield f"explained by quarantined seqs: {dict(self.explained) or 'nothing'}"
        if self.recovery_times_s:
            times = sorted(self.recovery_times_s)
            yield (
                f"seconds from a kill -9 of Redis to the first code, its restart included: median"
                f" {statistics.median(times):.2f} s, worst {times[-1]:.2f} s of {len(times)}"
            )
        yield f"violations: {sum(map(len, self.broken.values()))}"
        for run, violations in self.broken.items():
            yield f"  {run}:"
            yield from (f"    {violation}" for violation in violations)
        rare = sorted(kind for kind, count in self.faults.items() if count < least)
        yield f"kinds of fault with fewer than {least}: {', '.join(rare) or 'none'}"

    def save(self, file: Path) -> None:
        file.write_bytes(orjson.dumps({field.name: getattr(self, field.name) for field in fields(self)}))

    @classmethod
    def load(cls, file: Path) -> Self:
        saved = orjson.loads(file.read_bytes())
        scenarios = {name: Counter(figures) for name, figures in saved["scenarios"].items()}
        counters = {"faults": Counter(saved["faults"]), "explained": Counter(saved["explained"])}
        return cls(**saved | counters | {"scenarios": scenarios})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="+", type=Path, help="a file written by soak --totals FILE")
    total = Totals()
    for file in parser.parse_args().file:
        total.merge(Totals.load(file))
    print("\n".join(total.lines()))
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
