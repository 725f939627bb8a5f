"""Pools that are open while an import finds more of their codes used: taken back from Redis, and opened again.

The order of a pool is fixed while Redis has it. So the batch is closed, everything that Redis issued is recorded, the
used codes get the next seqs, and the pool is opened behind them. The process may be killed at any point:

1. The batch is closed by a revision that Postgres has and Redis has not finished. The push of it opens the batch.
2. One transaction marks the pools as not opened, renumbers and records. From here on the list in Redis has the wrong
   order, but the batch is closed, and the push of its revision opens the pools first, which empties their lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID

from issuer.batches.batch_revision import FOR_REDIS, BatchRevision
from issuer.batches.revisions import push_batch
from issuer.pools.counters import read_pool_counters
from issuer.storage.postgres import PUSH_LOCK, AnyConnection, advisory_lock, lock_of
from issuer.storage.redis_link import NotReadyError
from issuer.storage.stores import Stores

T = TypeVar("T")

WAIT_S: Final = 10.0
"""How long the batch stays closed for the worker to record what was issued."""
_LOOK_EVERY_S: Final = 0.1

_CLOSE: Final = """
UPDATE batches SET revision = revision + 1, rules_revision = revision + 1 WHERE id = $1 AND ended_at IS NULL
RETURNING id"""
_ACCOUNTED: Final = """
SELECT count(*) FROM pools p CROSS JOIN LATERAL (
  SELECT seq FROM redemptions WHERE pool_id = p.id AND seq <= $3
  UNION SELECT seq FROM quarantined WHERE pool_id = p.id AND seq <= $3
  UNION SELECT seq FROM dead_letters WHERE pool_id = p.id AND seq <= $3
) AS accounted WHERE p.batch_id = $1 AND p.client_id = $2"""
_TAKE_BACK: Final = "UPDATE pools SET opened = false, loaded = 0 WHERE batch_id = $1 AND client_id = ANY ($2)"


async def take_back(
    stores: Stores,
    connection: AnyConnection,
    batch_id: UUID,
    clients: Sequence[UUID],
    record: Callable[[], Awaitable[T]],
) -> T | None:
    """Close the batch, take the pools of these clients back, `record` in the same transaction, and open it again.

    None: nothing was changed, because the batch has ended or the worker does not record what was issued. Raises
    RedisUnavailableError and PostgresUnavailableError: the batch stays closed until its revision is pushed.
    """
    recorded: T | None = None
    async with advisory_lock(connection, lock_of(PUSH_LOCK, batch_id)):
        if await connection.fetchval(_CLOSE, batch_id) is None:
            return None
        row = await connection.fetchrow(f"{FOR_REDIS} WHERE id = $1", batch_id)
        assert row is not None
        revision = BatchRevision.of_row(row, stores.redis.partitions)
        await revision.put(stores.redis, stores.incarnations.lineage, closes=True)
        if await _all_recorded(stores, connection, batch_id, clients):
            async with connection.transaction():
                # Of another Redis it is not known whether it has the batch closed.
                epoch = await connection.fetchval("SELECT epoch FROM installation FOR SHARE")
                if epoch != stores.redis.epoch:
                    raise NotReadyError("Redis is being recovered")
                await connection.execute(_TAKE_BACK, batch_id, clients)
                recorded = await record()
    await push_batch(stores, batch_id)
    return recorded


async def _all_recorded(stores: Stores, connection: AnyConnection, batch_id: UUID, clients: Sequence[UUID]) -> bool:
    """Wait until everything that the closed pools have issued is accounted for; False: not within WAIT_S."""
    found = await read_pool_counters(stores.redis, [(batch_id, client) for client in clients])
    for client, counters in zip(clients, found, strict=True):
        if counters is None:
            return False
        for _ in range(int(WAIT_S / _LOOK_EVERY_S)):
            if await connection.fetchval(_ACCOUNTED, batch_id, client, counters.issued) == counters.issued:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        else:
            return False
    return True
