"""Ended batches: what they hold in Redis is given back, in steps that may be interrupted anywhere.

A redemption may be replayed for 24 h, also after its batch ended. So the answers kept for idempotency keys go by
their own time, and what a replay compares with (the meta of the pools) goes when the last of them is gone:

1. drained: the tombstone is in Redis and no event of the batch waits in the stream. The codes go, the windows go, and
   Postgres remembers how many seqs were issued.
2. freed: a day later the metas go. The tombstone stays for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from issuer.batches.windows import read_backlog
from issuer.contract.events import UndecodableEventError
from issuer.contract.keys import batch_keys, batch_patterns, partition_keys, partition_of
from issuer.contract.scripts import EMPTY_POOL
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import redis_errors_translated
from issuer.storage.stores import Stores

log = structlog.get_logger()

_MAX_BATCHES: Final = 10
"""Batches of one step that one call takes on."""

_SCAN_BATCH_SIZE: Final = 1_000
# A stream this long is behind: to look for the end of a batch in it would only slow the worker down.
_LONG_STREAM: Final = 10_000

_TO_DRAIN: Final = """
SELECT id FROM batches WHERE ended_at IS NOT NULL AND drained_at IS NULL AND redis_revision = revision
ORDER BY ended_at LIMIT $1"""

_DRAINED: Final = "UPDATE batches SET drained_at = now() WHERE id = $1 AND drained_at IS NULL"

# An hour more than answers are kept: Postgres' clock and Redis' need not agree.
_TO_FREE: Final = """
UPDATE batches SET freed_at = now() WHERE id IN (
  SELECT id FROM batches WHERE drained_at < now() - interval '25 hours' AND freed_at IS NULL LIMIT $1)"""

# Also those of the last hour: whoever freed one may have died before Redis heard of it.
_FREED: Final = "SELECT id FROM batches WHERE freed_at > now() - interval '1 hour'"


@dataclass(frozen=True, slots=True)
class _Pool:
    id: int
    client_id: UUID


async def free_ended_batches(stores: Stores) -> int:
    """Takes ended batches a step further where it is time; returns for how many. Cheap when there is nothing to do.

    Raises RedisUnavailableError and PostgresUnavailableError; what was done stays done.
    """
    async with unavailable_translated():
        waiting = [_id(row) for row in await stores.postgres.fetch(_TO_DRAIN, _MAX_BATCHES)]
    drained = 0
    for partition in sorted({partition_of(batch_id, stores.redis.partitions) for batch_id in waiting}):
        busy = await _pools_in_stream(stores, partition)
        for batch_id in waiting:
            if partition_of(batch_id, stores.redis.partitions) == partition and busy is not None:
                drained += await _drain(stores, batch_id, busy)
    return drained + await _free(stores)


async def _pools_in_stream(stores: Stores, partition: int) -> set[int] | None:
    """The pools that events still wait for; None: it cannot be told now."""
    async with redis_errors_translated():
        length = await stores.redis.client.xlen(partition_keys(partition).stream)
    if length > _LONG_STREAM:
        return None
    try:
        return {
            redemption.pool_id
            async for page in read_backlog(stores.redis.client, partition, strict=True)
            for redemption in page
        }
    except UndecodableEventError:
        return None


async def _drain(stores: Stores, batch_id: UUID, busy: set[int]) -> int:
    pools = await _pools(stores, batch_id)
    if any(pool.id in busy for pool in pools):
        return 0
    partition = partition_of(batch_id, stores.redis.partitions)
    state, keys = partition_keys(partition).state, batch_keys(partition, batch_id)
    issued: list[tuple[int, int]] = []
    for pool in pools:
        names = [state, keys.batch, keys.pool(pool.client_id), keys.codes(pool.client_id)]
        reply = await stores.redis.run(EMPTY_POOL, names, [])
        if reply[0] == b"NOT_ENDED":
            log.warning("batch has ended but Redis does not know", batch_id=str(batch_id))
            return 0
        issued.append((pool.id, int(reply[1]) if reply[0] == b"DONE" else 0))
    _, windows, _ = batch_patterns(partition, batch_id)
    await _unlink_matching(stores, windows)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        await connection.executemany("UPDATE pools SET final_issued = $2 WHERE id = $1", issued)
        await connection.execute(_DRAINED, batch_id)
    log.info("ended batch drained", batch_id=str(batch_id), pools=len(pools))
    return 1


async def _free(stores: Stores) -> int:
    # Postgres first: a recovery that found the metas gone and the batch not freed would take it for a loss.
    async with unavailable_translated():
        status = await stores.postgres.execute(_TO_FREE, _MAX_BATCHES)
        freed = [_id(row) for row in await stores.postgres.fetch(_FREED)]
    for batch_id in freed:
        keys = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id)
        pools = await _pools(stores, batch_id)
        for at in range(0, len(pools), _SCAN_BATCH_SIZE):
            names = [keys.pool(pool.client_id) for pool in pools[at : at + _SCAN_BATCH_SIZE]]
            async with redis_errors_translated():
                await stores.redis.client.unlink(*names)
    return int(status.rpartition(" ")[2])


async def _pools(stores: Stores, batch_id: UUID) -> list[_Pool]:
    async with unavailable_translated():
        rows = await stores.postgres.fetch("SELECT id, client_id FROM pools WHERE batch_id = $1", batch_id)
    return [_Pool(row["id"], UUID(bytes=row["client_id"].bytes)) for row in rows]


async def _unlink_matching(stores: Stores, pattern: bytes) -> None:
    """Goes through all keys in small steps; nobody waits for longer than one of them."""
    cursor: Any = 0
    while True:
        async with redis_errors_translated():
            cursor, found = await stores.redis.client.scan(cursor, match=pattern, count=_SCAN_BATCH_SIZE)
            if found:
                await stores.redis.client.unlink(*found)
        if not cursor:
            return


def _id(row: Any) -> UUID:
    return UUID(bytes=row["id"].bytes)
