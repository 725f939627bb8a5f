"""The report of an import: what became of every row of the source."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

MAX_PROBLEMS: Final = 100
"""Problems that are listed; further ones are only counted."""


class ImportRefusedError(Exception):
    """The import cannot be done. What earlier transactions have imported stays; a repeat adds the rest."""


@dataclass(frozen=True, slots=True)
class ImportProblem:
    """A row, or a whole batch (`code` None), that was not imported as it is, and why."""

    batch: str
    code: str | None
    reason: str


@dataclass(slots=True)
class ImportReport:
    """Every code of the source is in exactly one of `codes`, `unchanged` and `skipped`.

    `used`: usages that were recorded in the ledger. `conflicts`: those that were not, as the code was issued here.
    `noted`: rows that were imported with something else than the source has, such as another time.
    """

    run: UUID
    batches: int = 0
    new_batches: int = 0
    codes: int = 0
    used: int = 0
    unchanged: int = 0
    skipped: int = 0
    conflicts: int = 0
    noted: int = 0
    clients: int = 0
    in_redis: int = 0
    seconds: float = 0.0
    problems: list[ImportProblem] = field(default_factory=list)
    """The first 100."""

    def skip(self, batch: str, code: str | None, reason: str, rows: int = 1) -> None:
        self.skipped += rows
        self.list(batch, code, reason)

    def note(self, batch: str, code: str | None, reason: str) -> None:
        self.noted += 1
        self.list(batch, code, reason)

    def list(self, batch: str, code: str | None, reason: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(ImportProblem(batch, code, reason))

    def counts(self) -> dict[str, Any]:
        """Return the figures, as the audit log keeps them."""
        return {name: value for name, value in asdict(self).items() if name not in ("run", "problems")}

    def to_json(self) -> dict[str, Any]:
        """Return the report as the command line prints it."""
        return asdict(self)
