"""The series of a pool, of a batch or of the whole installation, as a chart shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

from issuer.contract.outcomes import Outcome
from issuer.instants import show_instant
from issuer.storage.postgres import Pool, unavailable_translated

INSTALLATION: Final = 0
"""Instead of a pool: all requests."""


class SeriesSpan(StrEnum):
    """How far a series reaches back."""

    QUARTER = "15m"
    DAY = "24h"
    MONTH = "30d"


class Grid(NamedTuple):
    """The steps of a span, and the table that has them."""

    table: str
    step_s: int
    steps: int


GRIDS: Final = {
    SeriesSpan.QUARTER: Grid("series_minutes", 60, 15),
    SeriesSpan.DAY: Grid("series_minutes", 300, 288),
    SeriesSpan.MONTH: Grid("series_hours", 3600, 720),
}


@dataclass(frozen=True, slots=True)
class Series:
    """Answers by outcome and step. The first step begins at `begins_at`; the last one is the present, and not over."""

    span: SeriesSpan
    begins_at: datetime
    step_s: int
    outcomes: dict[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        return {
            "span": self.span,
            "begins_at": show_instant(self.begins_at),
            "step_seconds": self.step_s,
            "outcomes": self.outcomes,
        }


_OF_POOLS: Final = "SELECT $1::bigint AS pool_id"
_OF_BATCH: Final = "SELECT id FROM pools WHERE batch_id = $1 AND ($5::uuid IS NULL OR client_id = $5)"
_SERIES: Final = """
SELECT floor(extract(epoch FROM at - $2) / $4)::int AS step, outcome, sum(count)::bigint AS count FROM {table}
WHERE pool_id IN ({pools}) AND at >= $2 AND at < $3 GROUP BY 1, 2 ORDER BY 2"""


async def installation_series(postgres: Pool, span: SeriesSpan, *, now: datetime | None = None) -> Series:
    """Return the series of all requests. Raises PostgresUnavailableError."""
    return await _read(postgres, span, now, _OF_POOLS, INSTALLATION)


async def batch_series(
    postgres: Pool, batch_id: UUID, span: SeriesSpan, *, client_id: UUID | None = None, now: datetime | None = None
) -> Series:
    """Return the series of a batch, coupon or campaign, or of its pool of `client_id` alone.

    Raises PostgresUnavailableError.
    """
    return await _read(postgres, span, now, _OF_BATCH, batch_id, client_id)


async def _read(
    postgres: Pool, span: SeriesSpan, now: datetime | None, pools: str, subject: object, *more: object
) -> Series:
    grid = GRIDS[span]
    begins_at = first_step(now or datetime.now(UTC), grid)
    ends_at = begins_at + timedelta(seconds=grid.step_s * grid.steps)
    async with unavailable_translated():
        rows = await postgres.fetch(
            _SERIES.format(table=grid.table, pools=pools), subject, begins_at, ends_at, float(grid.step_s), *more
        )
    return Series(span, begins_at, grid.step_s, _columns(rows, grid.steps))


def first_step(now: datetime, grid: Grid) -> datetime:
    """Return the beginning of the first step of a series that ends with the step of `now`."""
    last_s = int(now.timestamp()) // grid.step_s * grid.step_s
    return datetime.fromtimestamp(last_s - grid.step_s * (grid.steps - 1), UTC)


def _columns(rows: Sequence[Any], steps: int) -> dict[str, list[int]]:
    """Return one list for each outcome that occurred, and always one of what was granted."""
    columns = {Outcome.GRANTED.lower(): [0] * steps}
    for row in rows:
        columns.setdefault(row["outcome"], [0] * steps)[row["step"]] = row["count"]
    return columns
