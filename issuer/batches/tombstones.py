"""Free the memory that ended batches use in Redis, in steps that may be interrupted anywhere.

A redemption can be replayed for 24 h, also after its batch has ended. So the results kept for idempotency keys expire
on their own, and the pool meta, which a replay is compared with, is removed after the last of them has expired:

1. drained: the tombstone is in Redis and the stream has no event of the batch. Codes and windows are removed, and
   Postgres stores how many seqs were issued.
2. freed: a day later the pool metas are removed. The tombstone stays indefinitely.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog

from issuer.batches.window_rebuild import read_backlog
from issuer.contract.events import UndecodableEventError
from issuer.contract.keys import batch_keys, batch_patterns, partition_keys, partition_of
from issuer.contract.scripts import EMPTY_POOL
from issuer.storage.postgres import count_of, unavailable_translated
from issuer.storage.redis_link import redis_errors_translated
from issuer.storage.stores import Stores
from issuer.storage.task_rows import UNGUARDED, RowWork

log = structlog.get_logger()

_MAX_BATCHES: Final = 10
"""Batches that one call handles per step."""

_SCAN_BATCH_SIZE: Final = 1_000
# The worker is behind on a longer stream; a scan for events of ended batches would slow it down further.
_MAX_STREAM_LENGTH: Final = 10_000

TASK: Final = "free-ended-batches"

_TO_DRAIN: Final = """
SELECT id, revision FROM batches WHERE ended_at IS NOT NULL AND drained_at IS NULL AND redis_revision = revision
ORDER BY ended_at"""

# A pool that was never opened issued nothing here: what the ledger has of it was imported.
_FINAL: Final = """
UPDATE pools SET final_issued = CASE WHEN opened THEN $2 ELSE
  coalesce((SELECT max(seq) FROM redemptions WHERE pool_id = $1), 0) END
WHERE id = $1"""

_MARK_DRAINED: Final = "UPDATE batches SET drained_at = now() WHERE id = $1 AND drained_at IS NULL"

# One hour longer than results are kept, because the clocks of Postgres and Redis may differ.
_MARK_FREED: Final = """
UPDATE batches SET freed_at = now() WHERE id IN (
  SELECT id FROM batches WHERE drained_at < now() - interval '25 hours' AND freed_at IS NULL LIMIT $1)"""

# Includes the last hour: a process may have been killed between the commit and the call to Redis.
_RECENTLY_FREED: Final = "SELECT id FROM batches WHERE freed_at > now() - interval '1 hour'"


@dataclass(frozen=True, slots=True)
class _Pool:
    id: int
    client_id: UUID


async def free_ended_batches(stores: Stores, rows: RowWork = UNGUARDED) -> int:
    """Move ended batches that are due one step further; return their number. Cheap when none is due.

    `rows`: what becomes of a batch that cannot be drained.
    Raises RedisUnavailableError and PostgresUnavailableError; completed steps remain.
    """
    async with unavailable_translated():
        revisions = {str(row["id"]): row["revision"] for row in await stores.postgres.fetch(_TO_DRAIN)}
    undrained = [UUID(row) for row in (await rows.due(TASK, revisions))[:_MAX_BATCHES]]
    drained = 0
    for partition in sorted({partition_of(batch_id, stores.redis.partitions) for batch_id in undrained}):
        in_stream = await _find_pools_in_stream(stores, partition)
        for batch_id in undrained:
            if partition_of(batch_id, stores.redis.partitions) == partition and in_stream is not None:
                row, act = str(batch_id), partial(_drain, stores, batch_id, in_stream)
                drained += await rows.work(TASK, row, act, version=revisions[row]) or 0
    return drained + await _free(stores)


async def _find_pools_in_stream(stores: Stores, partition: int) -> set[int] | None:
    """Return the ids of pools with events in the stream; None: unknown, the stream is too long or not readable."""
    async with redis_errors_translated():
        length = await stores.redis.client.xlen(partition_keys(partition).stream)
    if length > _MAX_STREAM_LENGTH:
        return None
    try:
        return {
            redemption.pool_id
            async for page in read_backlog(stores.redis.client, partition, strict=True)
            for redemption in page
        }
    except UndecodableEventError:
        return None


async def _drain(stores: Stores, batch_id: UUID, in_stream: set[int]) -> int:
    """Remove codes and windows of a batch; return 1, or 0 if it must wait. Repeating this changes nothing."""
    pools = await _find_pools(stores, batch_id)
    if any(pool.id in in_stream for pool in pools):
        return 0
    partition = partition_of(batch_id, stores.redis.partitions)
    state, keys = partition_keys(partition).state, batch_keys(partition, batch_id)
    issued: list[tuple[int, int]] = []
    for pool in pools:
        names = [state, keys.batch, keys.pool(pool.client_id), keys.codes(pool.client_id)]
        reply = await stores.redis.run(EMPTY_POOL, names, [])
        if reply[0] == b"NOT_ENDED":
            log.warning("ended batch is still open in Redis; not drained yet", batch_id=str(batch_id))
            return 0
        issued.append((pool.id, int(reply[1]) if reply[0] == b"DONE" else 0))
    _, windows, _ = batch_patterns(partition, batch_id)
    await _unlink_matching(stores, windows)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        await connection.executemany(_FINAL, issued)
        await connection.execute(_MARK_DRAINED, batch_id)
    log.info("ended batch drained", batch_id=str(batch_id), pools=len(pools))
    return 1


async def _free(stores: Stores) -> int:
    # Postgres first: missing pool metas of a batch that is not marked as freed look like a loss to a recovery.
    async with unavailable_translated():
        status = await stores.postgres.execute(_MARK_FREED, _MAX_BATCHES)
        freed = [_batch_id(row) for row in await stores.postgres.fetch(_RECENTLY_FREED)]
    for batch_id in freed:
        keys = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id)
        pools = await _find_pools(stores, batch_id)
        for at in range(0, len(pools), _SCAN_BATCH_SIZE):
            names = [keys.pool(pool.client_id) for pool in pools[at : at + _SCAN_BATCH_SIZE]]
            async with redis_errors_translated():
                await stores.redis.client.unlink(*names)
    return count_of(status)


async def _find_pools(stores: Stores, batch_id: UUID) -> list[_Pool]:
    async with unavailable_translated():
        rows = await stores.postgres.fetch("SELECT id, client_id FROM pools WHERE batch_id = $1", batch_id)
    return [_Pool(row["id"], UUID(bytes=row["client_id"].bytes)) for row in rows]


async def _unlink_matching(stores: Stores, pattern: bytes) -> None:
    """Remove all keys that match, in small steps, so that Redis is never blocked for longer than one step."""
    cursor: Any = 0
    while True:
        async with redis_errors_translated():
            cursor, keys = await stores.redis.client.scan(cursor, match=pattern, count=_SCAN_BATCH_SIZE)
            if keys:
                await stores.redis.client.unlink(*keys)
        if not cursor:
            return


def _batch_id(row: Any) -> UUID:
    return UUID(bytes=row["id"].bytes)
