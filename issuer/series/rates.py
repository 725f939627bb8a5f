"""The rates of the pools that issue, and the times at which they will be empty: computed by the worker."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from issuer.paging import CHUNK_SIZE
from issuer.pools.counters import read_pool_counters
from issuer.series.forecast import DAY_H, DAYS, HOUR_S, WINDOWS, empty_after_s
from issuer.storage.postgres import unavailable_translated
from issuer.storage.stores import Stores

TASK: Final = "rates"
EVERY_S: Final = 5.0
SHARED_S: Final = 3.0
"""Rates that another worker has computed a moment ago are not computed again."""
MINUTE_S: Final = 60
LATE_S: Final = 6
"""What API processes have counted in a minute is written this long after its end, at the latest."""
WRITTEN_LATE_S: Final = 2.5
"""The same on average."""
MAX_SHARE: Final = 0.05
"""Most of the time that is spent on rates, as long as the pauses are not longer than MAX_PAUSE_S."""
MAX_PAUSE_S: Final = 60.0
"""Rates are shown for two minutes."""
_POOLS_AT_ONCE: Final = 20
_ROWS_AT_ONCE: Final = 2_000


@dataclass(frozen=True, slots=True)
class History:
    """What a pool has issued: by minute and by hour, numbered since 1970."""

    minutes: dict[int, int] = field(default_factory=dict)
    hours: dict[int, int] = field(default_factory=dict)

    def rate_per_s(self, now_s: float) -> float:
        """Return the codes issued a second over the last minute: this minute, and a part of the one before."""
        minute, passed_s = int(now_s // MINUTE_S), max(0.0, now_s % MINUTE_S - WRITTEN_LATE_S)
        before = self.minutes.get(minute - 1, 0) * (1 - passed_s / MINUTE_S)
        return (self.minutes.get(minute, 0) + before) / MINUTE_S

    def recent(self, now_s: float) -> list[int]:
        """Return what each of the last whole minutes issued, the newest last."""
        end = int((now_s - LATE_S) // MINUTE_S)
        return [self.minutes.get(minute, 0) for minute in range(end - max(WINDOWS), end)]


async def refresh_rates(stores: Stores) -> None:
    """Compute the rates of all pools that have issued within a day.

    Raises PostgresUnavailableError, RedisUnavailableError.
    """
    async with unavailable_translated():
        if await stores.postgres.fetchval(_ARE_FRESH, timedelta(seconds=SHARED_S)):
            return
        active = [row["pool_id"] for row in await stores.postgres.fetch(_ACTIVE)]
    for start in range(0, len(active), CHUNK_SIZE):
        async with unavailable_translated():
            pools = await stores.postgres.fetch(_POOLS, active[start : start + CHUNK_SIZE])
        if pools:
            await _refresh(stores, pools)


def pause_s(spent_s: float) -> float:
    """Return how long to pause after a round that took this long: with very many pools, rates are older."""
    return min(MAX_PAUSE_S, spent_s / MAX_SHARE)


async def _refresh(stores: Stores, pools: Sequence[Any]) -> None:
    found = await read_pool_counters(
        stores.redis, [(UUID(bytes=row["batch_id"].bytes), UUID(bytes=row["client_id"].bytes)) for row in pools]
    )
    histories = await _read_histories(stores, [row["id"] for row in pools])
    now = datetime.now(UTC)
    rows = []
    for at, (pool, counters) in enumerate(zip(pools, found, strict=True)):
        issued = pool["final_issued"] if counters is None else counters.issued
        if issued is not None:
            remaining = max(0, pool["available"] - issued)
            rows.append((pool["id"], now, *forecast(histories[pool["id"]], remaining, now)))
        if at % _POOLS_AT_ONCE == 0:
            # The worker records redemptions meanwhile.
            await asyncio.sleep(0)
    async with unavailable_translated():
        await stores.postgres.execute(_STORE, *zip(*rows, strict=True)) if rows else None


def forecast(history: History, remaining: int, now: datetime) -> tuple[float, float, int, datetime | None]:
    """Return the rates over 1 and 15 minutes, what remains, and when that will be issued."""
    now_s = now.timestamp()
    recent = history.recent(now_s)
    after_s = empty_after_s(remaining, recent, history.hours, now_s=now_s)
    empty_at = None if after_s is None else now + timedelta(seconds=after_s)
    return history.rate_per_s(now_s), sum(recent[-15:]) / (15 * MINUTE_S), remaining, empty_at


async def _read_histories(stores: Stores, pools: Sequence[int]) -> Mapping[int, History]:
    found: dict[int, History] = defaultdict(History)
    async with unavailable_translated():
        minutes = await stores.postgres.fetch(_MINUTES, pools, timedelta(minutes=max(WINDOWS) + 2))
        hours = await stores.postgres.fetch(_HOURS, pools, timedelta(hours=DAYS * DAY_H + 1))
    for at, row in enumerate(minutes):
        found[row["pool_id"]].minutes[int(row["at"].timestamp()) // MINUTE_S] = row["count"]
        if at % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
    for at, row in enumerate(hours):
        found[row["pool_id"]].hours[int(row["at"].timestamp() // HOUR_S)] = row["count"]
        if at % _ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return found


_ARE_FRESH: Final = "SELECT EXISTS (SELECT FROM pool_rates WHERE at > clock_timestamp() - $1::interval)"

# Found by time: there may be far more open pools than pools that issue.
_ACTIVE: Final = """
SELECT DISTINCT pool_id FROM series_hours
WHERE at > clock_timestamp() - interval '25 hours' AND outcome = 'granted' AND pool_id <> 0 ORDER BY pool_id"""

# Of a coupon, uses that were reversed or released are available again.
_POOLS: Final = """
SELECT p.id, p.batch_id, p.client_id, p.final_issued,
  coalesce((SELECT c.available + c.reversed + c.released FROM coupons c WHERE c.pool_id = p.id), p.total) AS available
FROM pools p JOIN batches b ON b.id = p.batch_id
WHERE p.id = ANY ($1) AND b.ended_at IS NULL"""

_MINUTES: Final = """
SELECT pool_id, at, count FROM series_minutes
WHERE pool_id = ANY ($1) AND at > clock_timestamp() - $2::interval AND outcome = 'granted'"""
_HOURS: Final = """
SELECT pool_id, at, count FROM series_hours
WHERE pool_id = ANY ($1) AND at > clock_timestamp() - $2::interval AND outcome = 'granted'"""

_STORE: Final = """
INSERT INTO pool_rates (pool_id, at, per_s_1m, per_s_15m, remaining, empty_at)
SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::float8[], $4::float8[], $5::bigint[], $6::timestamptz[])
ON CONFLICT (pool_id) DO UPDATE SET at = excluded.at, per_s_1m = excluded.per_s_1m,
  per_s_15m = excluded.per_s_15m, remaining = excluded.remaining, empty_at = excluded.empty_at"""
