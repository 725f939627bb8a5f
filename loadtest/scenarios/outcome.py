"""Classify responses and check the results of each scenario."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Kind(StrEnum):
    """Kinds of responses that a scenario may expect."""

    GRANTED = "granted"
    REPLAYED = "replayed"
    SOLD_OUT = "sold out"
    LIMIT_REACHED = "limit reached"
    KEY_REUSED = "key reused"


_REFUSALS: Final = {
    (404, "sold_out"): Kind.SOLD_OUT,
    (403, "limit_reached"): Kind.LIMIT_REACHED,
    (422, "idempotency_key_reused"): Kind.KEY_REUSED,
}


def kind_of(status: int, headers: Mapping[str, str], body: Any) -> Kind | str:
    """Return the kind of a response, or a description of a response that no scenario expects."""
    if not isinstance(body, dict):
        return f"{status}, not a JSON object"
    if status == 200 and isinstance(body.get("code"), str):
        return Kind.REPLAYED if headers.get("Idempotency-Replayed") == "true" else Kind.GRANTED
    return _REFUSALS.get((status, str(body.get("code")))) or f"{status} {body.get('error')}"


@dataclass(slots=True)
class ScenarioResults:
    """The responses of one scenario. Every kind in `expected` must occur, and no other kind may."""

    name: str
    expected: frozenset[Kind]
    kinds: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    _codes: set[tuple[str, str]] = field(default_factory=set)

    def add(self, kind: Kind | str) -> bool:
        """Count a response. Return False if the scenario does not expect it."""
        self.kinds[kind] += 1
        if kind in self.expected:
            return True
        self.add_problem(f"unexpected: {kind}")
        return False

    def add_code(self, batch: str, code: str) -> bool:
        """Record a granted code. Return False if it was granted before, which must never happen."""
        if (batch, code) in self._codes:
            self.add_problem("a code was granted twice")
            return False
        self._codes.add((batch, code))
        return True

    def add_problem(self, problem: str) -> None:
        self.problems[problem] += 1

    @property
    def missing(self) -> list[Kind]:
        return sorted(kind for kind in self.expected if not self.kinds[kind])

    @property
    def is_good(self) -> bool:
        return not self.problems and not self.missing

    def lines(self) -> list[str]:
        total = ", ".join(f"{self.kinds[kind]:,} {kind}" for kind in sorted(self.kinds))
        found = [f"{'ok  ' if self.is_good else 'FAIL'}  {self.name}: {total or 'no responses'}"]
        found += [f"      {count:,} × {problem}" for problem, count in self.problems.most_common()]
        found += [f"      never: {kind}" for kind in self.missing]
        return found


def tally(all_results: Iterable[ScenarioResults]) -> tuple[str, bool]:
    """Return the table that a run ends with, and whether all results in it are good."""
    all_results = list(all_results)
    lines = [line for results in all_results for line in results.lines()]
    return "\n".join(lines), bool(all_results) and all(results.is_good for results in all_results)
