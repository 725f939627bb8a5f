"""Push a batch's latest revision from Postgres to Redis. The API pushes at each change, the worker what is left behind.

The steps run under the batch's PUSH_LOCK. The process may be killed after any of them: the next push starts over.
1. For a coupon: remove reversed uses from the windows of their customers.
2. Write what redeem.lua reads. Set `rebuilding`, so that the batch answers 503 from here on, if the rules changed, or
   if they changed before and a use was reversed, or if a reversed use has the same time as the next one could have.
3. Write the windows that the new rules need, from the stream, the dead letters and the ledger.
4. Open pools that an import has taken back, then repeat step 2 without `rebuilding`: the batch is open under the new
   rules.
5. Set `redis_revision`: this revision need not be pushed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg
import structlog

from issuer.batches.batch_revision import FOR_REDIS, BatchRevision, SupersededError
from issuer.batches.reversals import PendingReversal, find_pending_reversals, mark_returned, return_uses
from issuer.batches.window_rebuild import ClosedBatch, read_backlog, write_windows
from issuer.contract.keys import partition_keys, partition_of
from issuer.pools.loader import reopen_pool
from issuer.storage.lineage import find_unknown, report_unknown
from issuer.storage.postgres import PUSH_LOCK, PoolConnection, advisory_lock, lock_of, unavailable_translated
from issuer.storage.redis_link import Redis, redis_errors_translated

if TYPE_CHECKING:
    from issuer.storage.stores import Stores

log = structlog.get_logger()

_UNPUSHED: Final = f"{FOR_REDIS} WHERE id = $1 AND redis_revision < revision"
_MARK_PUSHED: Final = "UPDATE batches SET redis_revision = $2 WHERE id = $1 AND redis_revision < $2"

_TAKEN_BACK: Final = """
SELECT id FROM pools WHERE batch_id = $1 AND NOT opened AND EXISTS (
  SELECT FROM redemptions r WHERE r.pool_id = pools.id) ORDER BY id"""


async def push_batch(stores: Stores, batch_id: UUID) -> None:
    """Push the batch's latest revision; return when Redis has it. Repeating this changes nothing.

    Raises RedisUnavailableError and PostgresUnavailableError: the revision must be pushed again, and a batch whose
    rules were being changed stays closed (503 `batch_rebuilding`) until then.
    """
    async with (
        unavailable_translated(),
        stores.postgres.acquire() as connection,
        advisory_lock(connection, lock_of(PUSH_LOCK, batch_id)),
    ):
        # Changes do not take the lock, so there may be a newer revision after each push.
        while (row := await connection.fetchrow(_UNPUSHED, batch_id)) is not None:
            try:
                await _push(stores, connection, row)
            except SupersededError as error:
                await _report_unknown_revision(connection, batch_id, error)
                raise
            await connection.execute(_MARK_PUSHED, batch_id, row["revision"])


async def _report_unknown_revision(connection: PoolConnection, batch_id: UUID, error: SupersededError) -> None:
    """Begin an incident, unless the revision in Redis is the latest one by now, or an earlier one, of this Postgres."""
    latest = await connection.fetchval("SELECT token FROM batches WHERE id = $1", batch_id)
    if unknown := await find_unknown(connection, [token for token in error.tokens if token != latest]):
        await report_unknown(connection, unknown, f"the revision of batch {batch_id} in Redis")


async def _push(stores: Stores, connection: PoolConnection, row: asyncpg.Record) -> None:
    redis = stores.redis
    revision = BatchRevision.of_row(row, redis.partitions)
    batch_id, partition, span = revision.batch_id, revision.partition, revision.span
    reversals, closes = list[PendingReversal](), False
    if row["coupon"]:
        now_ms = await _read_clock_ms(redis, partition)
        reversals = await _find_reversals(stores, connection, batch_id)
        # Windows written under lower limits lack older uses, which count again once a newer one is reversed. And while
        # the clock shows the time of a reversed use, a new use may get that very time.
        counted = [use for use in reversals if use.customer is not None]
        closes = bool(counted) and (row["rules_revision"] > 1 or any(use.at_ms >= now_ms for use in counted))
    # An ended batch grants nothing, and without limits no windows are kept.
    limit = ClosedBatch(batch_id, partition, span, revision.token.hex) if span and row["ended_at"] is None else None
    # The windows in Redis may lack redemptions that new rules count. They cannot under the rules that the batch was
    # created with: every redemption was counted by them.
    rebuilds = row["rules_revision"] > max(row["redis_revision"], 1)
    if limit is None or not (closes or rebuilds):
        await _open(stores, connection, revision, reversals)
        return
    if not await revision.put(redis, stores.incarnations.lineage, closes=True):
        return  # an earlier push did all steps but 5
    if reversals:
        # Again, now that the batch is closed: uses in the same ms as a reversed one may have come in between.
        reversals = await _find_reversals(stores, connection, batch_id)
    # Keys expire by Redis' clock, so the remaining time of each window is computed from it.
    host_ms = await redis.host_ms()
    written = await write_windows(
        connection,
        redis,
        [limit],
        host_ms=host_ms,
        backlog=read_backlog(redis.client, partition),
        customers=None if rebuilds else [UUID(bytes=use.customer) for use in reversals if use.customer],
    )
    await _open(stores, connection, revision, reversals)
    log.info("windows rebuilt", batch_id=str(batch_id), revision=revision.number, customers=written)


async def _open(
    stores: Stores, connection: PoolConnection, revision: BatchRevision, reversals: Sequence[PendingReversal]
) -> None:
    """Write the revision so that the batch is open.

    Reversed uses are removed from the windows before and marked as returned after. Windows may still contain them after
    a rebuild: a customer without remaining uses got no new window.
    """
    if reversals:
        await return_uses(stores.redis, reversals)
    for row in await connection.fetch(_TAKEN_BACK, revision.batch_id):
        # Until then its list has the order before the import.
        await reopen_pool(stores, row["id"])
    await revision.put(stores.redis, stores.incarnations.lineage)
    if reversals:
        await mark_returned(connection, reversals)


async def _find_reversals(stores: Stores, connection: PoolConnection, batch_id: UUID) -> list[PendingReversal]:
    backlog = read_backlog(stores.redis.client, partition_of(batch_id, stores.redis.partitions))
    return await find_pending_reversals(connection, batch_id, backlog=backlog)


async def _read_clock_ms(redis: Redis, partition: int) -> int:
    """Return the earliest time in ms that the next use or redemption can have."""
    async with redis_errors_translated():
        clock = await redis.client.hget(partition_keys(partition).state, "clock")
    return max(await redis.host_ms(), int(clock or 0))
