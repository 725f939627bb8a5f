"""The report of a load: what became of every row of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

from issuer.clients.registry import client_label
from issuer.loading.code_rows import Rejection

_NAMED: Final = 3
"""Rejected rows that the message about a load without a valid row names."""


@dataclass(frozen=True, slots=True)
class ClientReport:
    """A client, and how many rows or codes of the file are counted for it. `client_name` None: it has none."""

    client_id: UUID
    client_name: str | None
    count: int

    def __str__(self) -> str:
        return client_label(self.client_id, self.client_name)


@dataclass(frozen=True, slots=True)
class PoolReport:
    """The effect of a load on one pool. `total` and `in_redis` are the state after it; of a dry run, as it would be."""

    client_id: UUID
    client_name: str | None
    loaded: int
    total: int
    in_redis: int


@dataclass(frozen=True, slots=True)
class OtherBatch:
    """Another batch, and how many codes of the file it has (or had, where they were moved)."""

    batch_id: UUID
    batch_name: str
    codes: int


@dataclass(frozen=True, slots=True)
class RowInOtherBatch:
    """A row whose code its client has in another batch: its line in the file, counting from 1, and that batch."""

    line: int
    batch_id: UUID
    batch_name: str


@dataclass(frozen=True, slots=True)
class RepeatedRow:
    """A row whose code an earlier row of the file has: the lines of both, counting from 1."""

    line: int
    first_line: int


@dataclass(frozen=True, slots=True)
class PreloadReport:
    """The outcome of every row.

    ``rows = loaded + duplicates_in_file + duplicates_in_batch + duplicates_in_other_batches + rejected``. `batch_id`
    None: no batch was created, because no code was loaded; or a dry run.
    """

    batch_id: UUID | None
    dry_run: bool
    rows: int
    loaded: int
    duplicates_in_file: int
    duplicates_in_batch: int
    duplicates_in_other_batches: int
    rejected: int
    new_batch: bool = False
    rejections: list[Rejection] = field(default_factory=list)
    """The first 1,000 rejections."""
    other_batches: Sequence[OtherBatch] = ()
    """The batches with most of `duplicates_in_other_batches`, at most 20."""
    rows_in_other_batches: Sequence[RowInOtherBatch] = ()
    """The first 1,000 of these rows."""
    repeated_rows: Sequence[RepeatedRow] = ()
    """The first 1,000 of `duplicates_in_file`."""
    owners_in_batch: Sequence[ClientReport] = ()
    """Of a load without a new code: the clients beside those of the file that have its codes in the batch."""
    default_client: ClientReport | None = None
    """The default client, and how many valid rows named none and so became its rows; None: there is no such row."""
    clients: Sequence[ClientReport] = ()
    """The clients that got codes, each with the number of its new ones."""
    moved: Sequence[OtherBatch] = ()
    """The ended batches from which codes were taken over; these codes are counted in `loaded`."""
    created_clients: Sequence[str] = ()
    """The clients that the load registered, by their texts."""
    pools: list[PoolReport] = field(default_factory=list)
    redis_bytes: int = 0
    """Estimated Redis memory of the codes that this load pushes."""
    seconds: float = 0.0

    @property
    def nothing_new(self) -> bool:
        """Whether the batch has every code of the file already."""
        others = self.loaded or self.duplicates_in_other_batches or self.rejected
        return self.duplicates_in_batch > 0 and not others

    def to_json(self) -> dict[str, Any]:
        """Return the report as the command line prints it."""
        return asdict(self)


class NothingLoadedError(Exception):
    """No row of the file is valid: nothing was changed. The message says why; `report` has the first rows."""

    def __init__(self, report: PreloadReport) -> None:
        shown = "; ".join(f"line {row.line:,}: {row.reason}" for row in report.rejections[:_NAMED])
        more = f"; and {report.rejected - _NAMED:,} more" if report.rejected > _NAMED else ""
        rows = (
            f"none of {report.rows:,} rows is valid: {shown}{more}" if report.rows else "the file has no rows of codes"
        )
        super().__init__(f"nothing was loaded: {rows}")
        self.report = report


class UnfinishedLoadError(Exception):
    """All codes are stored in the batch, but not all that belong in Redis are there. `report` shows how far it came.

    A top-up of the worker loads the rest; so does a repeat of the same load, which adds nothing else.
    """

    def __init__(self, report: PreloadReport, reason: str) -> None:
        super().__init__(f"all codes are in Postgres, but not all are in Redis: {reason}")
        self.report = report
