"""Removal of what the series no longer keep."""

from __future__ import annotations

from typing import Final

from issuer.storage.postgres import Pool, count_of, unavailable_translated

MINUTES_KEPT: Final = "2 days"
HOURS_KEPT: Final = "400 days"
PULSES_KEPT: Final = "1 day"
RATES_KEPT: Final = "1 day"

_EXPIRED: Final = tuple(
    f"DELETE FROM {table} WHERE ctid = ANY (ARRAY("
    f"SELECT ctid FROM {table} WHERE at < now() - interval '{kept}' ORDER BY at LIMIT $1))"
    for table, kept in (
        ("series_minutes", MINUTES_KEPT), ("series_hours", HOURS_KEPT), ("pulses", PULSES_KEPT),
        ("pool_rates", RATES_KEPT),
    )
)  # fmt: skip


async def delete_expired_series(postgres: Pool, limit: int) -> int:
    """Remove at most `limit` rows of each table that are older than it keeps. Return how many were removed."""
    async with unavailable_translated():
        return sum([count_of(await postgres.execute(statement, limit)) for statement in _EXPIRED])
