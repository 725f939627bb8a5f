"""Top-ups: codes from Postgres for the pools that run low in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from issuer.pools.counters import PoolCounters, read_pool_counters
from issuer.pools.group_loader import GROUP_SIZE, GroupLoader
from issuer.pools.loader import load_pool
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import POOL_SELECT, BatchNotInRedisError, Pool, PoolClosedError
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import RedisRefusedError
from issuer.storage.stores import Stores
from issuer.storage.task_rows import UNGUARDED, RowWork

TASK: Final = "top-up"
MAX_PER_TOP_UP: Final = 100_000
"""Codes that one top-up pushes into one pool before it looks at the next."""

_OF_OPEN_BATCHES: Final = f"""
{POOL_SELECT}
WHERE b.ended_at IS NULL AND (b.ends_at IS NULL OR b.ends_at > now()) AND p.total > 0
  AND (b.kind = 'codes' OR NOT p.opened)
"""
# The last condition is spelled as in the index pools_not_loaded, so that Postgres uses it.
_NOT_LOADED: Final = f"{_OF_OPEN_BATCHES} AND p.loaded < p.total"


async def top_up(stores: Stores, rows: RowWork = UNGUARDED, *, thorough: bool = False) -> int:
    """Fill up the pools that run low in Redis, the emptiest first; return the number of codes pushed.

    Looks at the pools that according to the hint are not completely in Redis; with `thorough` at all pools. With
    nothing to do it costs one query by an index. `rows`: what becomes of a pool that cannot be loaded.

    Raises RedisMemoryError when Redis is full, RedisUnavailableError, PostgresUnavailableError: call again later.
    """
    async with unavailable_translated():
        found = await stores.postgres.fetch(_OF_OPEN_BATCHES if thorough else _NOT_LOADED)
    low = {str(pool.id): pool for pool in await _running_low(stores, [Pool(**row) for row in found])}
    totals = {row: pool.total for row, pool in low.items()}
    due = await rows.due(TASK, totals, complete=thorough)
    loader, pushed = GroupLoader(stores), 0

    async def load_group(some: Sequence[str]) -> list[str]:
        return [str(pool.id) for pool in await loader.load([low[row] for row in some])]

    for at in range(0, len(due), GROUP_SIZE):
        group = {row: totals[row] for row in due[at : at + GROUP_SIZE]}
        for row in await rows.work_together(TASK, group, load_group) if len(group) > 1 else group:
            act = partial(_load, stores, int(row))
            pushed += await rows.work(TASK, row, act, version=totals[row], raises=(RedisMemoryError,)) or 0
    return pushed + loader.pushed


async def _load(stores: Stores, pool_id: int) -> int:
    try:
        return (await load_pool(stores, pool_id, most=MAX_PER_TOP_UP, give_way=True)).pushed
    except (PoolClosedError, BatchNotInRedisError):
        return 0  # the batch has ended meanwhile, or its revision is on its way to Redis


async def _running_low(stores: Stores, pools: Sequence[Pool]) -> list[Pool]:
    """Return the pools that need a load, the emptiest first.

    They are below the low-water mark, were never opened, or have a total or a hint that differs between the stores.
    A pool whose counters cannot be read is one of them, too: its load states the error.
    """
    low: list[tuple[int, Pool]] = []
    try:
        found = await read_pool_counters(stores.redis, [(pool.batch_id, pool.client_id) for pool in pools])
    except _UNREADABLE:
        found = [await _read_one(stores, pool) for pool in pools]
    for pool, counters in zip(pools, found, strict=True):
        if counters is None:
            low.append((0, pool))
            continue
        is_low = counters.in_redis < stores.settings.pool_low_water and counters.loaded < pool.total
        hint_is_late = counters.loaded == pool.total != pool.loaded
        if is_low or counters.total < pool.total or hint_is_late:
            low.append((counters.in_redis, pool))
    return [pool for _, pool in sorted(low, key=lambda item: item[0])]


async def _read_one(stores: Stores, pool: Pool) -> PoolCounters | None:
    try:
        (counters,) = await read_pool_counters(stores.redis, [(pool.batch_id, pool.client_id)])
    except _UNREADABLE:
        return None
    return counters


_UNREADABLE: Final = (RedisRefusedError, ValueError)
"""Errors of counters that are no numbers, or of a key of another type."""
