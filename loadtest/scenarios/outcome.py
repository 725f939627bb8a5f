"""What became of a request, in one word, and the account that a run is judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Kind(StrEnum):
    """Answers that some scenario expects."""

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
    """The kind of an answer, or in words what it was instead."""
    if not isinstance(body, dict):
        return f"{status}, not a JSON object"
    if status == 200 and isinstance(body.get("code"), str):
        return Kind.REPLAYED if headers.get("Idempotency-Replayed") == "true" else Kind.GRANTED
    return _REFUSALS.get((status, str(body.get("code")))) or f"{status} {body.get('error')}"


@dataclass(slots=True)
class Account:
    """What one scenario was answered. `expected`: each of these must come, and nothing else may."""

    name: str
    expected: frozenset[Kind]
    kinds: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    _codes: set[tuple[str, str]] = field(default_factory=set)

    def note(self, kind: Kind | str) -> bool:
        """Counts an answer. False: the scenario does not expect it."""
        self.kinds[kind] += 1
        if kind in self.expected:
            return True
        self.complain(f"unexpected: {kind}")
        return False

    def note_code(self, batch: str, code: str) -> bool:
        """Remembers a code that was granted. False: it was granted before, which must never happen."""
        if (batch, code) in self._codes:
            self.complain("a code was granted twice")
            return False
        self._codes.add((batch, code))
        return True

    def complain(self, problem: str) -> None:
        self.problems[problem] += 1

    @property
    def missing(self) -> list[Kind]:
        return sorted(kind for kind in self.expected if not self.kinds[kind])

    @property
    def is_good(self) -> bool:
        return not self.problems and not self.missing

    def lines(self) -> list[str]:
        total = ", ".join(f"{self.kinds[kind]:,} {kind}" for kind in sorted(self.kinds))
        found = [f"{'ok  ' if self.is_good else 'FAIL'}  {self.name}: {total or 'no answer'}"]
        found += [f"      {count:,} × {problem}" for problem, count in self.problems.most_common()]
        found += [f"      never: {kind}" for kind in self.missing]
        return found


def tally(accounts: Iterable[Account]) -> tuple[str, bool]:
    """The table that a run ends with, and whether everything in it is good."""
    accounts = list(accounts)
    lines = [line for account in accounts for line in account.lines()]
    return "\n".join(lines), bool(accounts) and all(account.is_good for account in accounts)
