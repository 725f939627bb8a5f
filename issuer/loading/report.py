"""The report of a load: what became of every row of the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from issuer.loading.code_csv import Rejection


@dataclass(frozen=True, slots=True)
class PoolReport:
    """The effect of a load on one pool. `total` and `in_redis` are the state after it; of a dry run, as it would be."""

    client_id: UUID
    loaded: int
    total: int
    in_redis: int


@dataclass(frozen=True, slots=True)
class PreloadReport:
    """The outcome of every row: ``rows = loaded + duplicates_in_file + duplicates_in_batch + rejected``."""

    batch_id: UUID | None
    dry_run: bool
    rows: int
    loaded: int
    duplicates_in_file: int
    duplicates_in_batch: int
    rejected: int
    rejections: list[Rejection] = field(default_factory=list)
    """The first 1,000 rejections."""
    pools: list[PoolReport] = field(default_factory=list)
    redis_bytes: int = 0
    """Estimated Redis memory of the codes that this load pushes."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the report as the command line prints it."""
        return asdict(self)


class UnfinishedLoadError(Exception):
    """All codes are stored in the batch, but not all that belong in Redis are there. `report` shows how far it came.

    A top-up of the worker loads the rest; so does a repeat of the same load, which adds nothing else.
    """

    def __init__(self, report: PreloadReport, reason: str) -> None:
        super().__init__(f"all codes are in Postgres, but not all are in Redis: {reason}")
        self.report = report
