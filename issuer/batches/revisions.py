"""Bringing Redis to the revision that Postgres has of a batch. The API does it at each change, the worker what is left.

Steps, all under one advisory lock of the batch, each safe to die after, since the next push begins again:
1. of a coupon: uses that were given back leave the windows of their customers
2. what redeem.lua must know; if the rules changed, or once did and a use was given back, or that use cannot be told
   from those to come, with `rebuilding` set: the batch answers 503 from here on
3. the windows that the new rules need, from the stream, the dead letters and the ledger
4. the same as 2 without `rebuilding`: the batch is open, under the new rules
5. `redis_revision`: nobody needs to push this revision again
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg
import orjson
import structlog

from issuer.batches.put_batch import FOR_REDIS, put_batch
from issuer.batches.reversals import PendingReversal, note_returned, return_uses, uses_reversed
from issuer.batches.rules import Rules, parse_rules
from issuer.batches.windows import Span, fenced_writer, read_backlog, write_windows
from issuer.contract.keys import partition_keys, partition_of
from issuer.storage.postgres import PUSH_LOCK, PoolConnection, advisory_lock, lock_of, unavailable_translated
from issuer.storage.redis_link import redis_errors_translated, time_ms

if TYPE_CHECKING:
    import redis.asyncio as aioredis

    from issuer.storage.stores import Stores

log = structlog.get_logger()

_BEHIND: Final = f"{FOR_REDIS} WHERE id = $1 AND redis_revision < revision"
_REACHED: Final = "UPDATE batches SET redis_revision = $2 WHERE id = $1 AND redis_revision < $2"


async def push_batch(stores: Stores, batch_id: UUID) -> None:
    """Returns when Redis has the batch's latest revision; to repeat it changes nothing.

    Raises RedisUnavailableError and PostgresUnavailableError: the revision stays behind and must be pushed again. A
    batch whose rules were being changed then stays closed (503 `batch_rebuilding`) until that was done.
    """
    async with (
        unavailable_translated(),
        stores.postgres.acquire() as connection,
        advisory_lock(connection, lock_of(PUSH_LOCK, batch_id)),
    ):
        # Changes do not wait for the lock, so there may be a newer one after each push.
        while (row := await connection.fetchrow(_BEHIND, batch_id)) is not None:
            await _push(stores, connection, row)
            await connection.execute(_REACHED, batch_id, row["revision"])


async def _push(stores: Stores, connection: PoolConnection, row: asyncpg.Record) -> None:
    rules = parse_rules(orjson.loads(row["rules"]))
    batch_id, partition = row["id"], partition_of(row["id"], stores.redis.partitions)
    reversals, closes = list[PendingReversal](), False
    if row["coupon"]:
        now_ms = await _time_of(stores.redis.client, partition)
        reversals = await _reversed(stores, connection, batch_id)
        # Windows made for lower limits lack the older uses, which count when a newer one is given back. And while the
        # clock stands at the time of one that is given back, a new one may come with the same.
        counted = [use for use in reversals if use.customer is not None]
        closes = bool(counted) and (row["rules_revision"] > 1 or any(use.at_ms >= now_ms for use in counted))
    closes = closes and row["ended_at"] is None and Span.of(rules) is not None
    rebuilds = _needs_rebuild(row, rules)
    if not closes and not rebuilds:
        await return_uses(stores.redis, batch_id, reversals)
        await put_batch(stores.redis, row, rules)
        await note_returned(connection, reversals)
        return
    rebuilding = str(row["revision"])
    if not await put_batch(stores.redis, row, rules, rebuilding=rebuilding):
        return  # somebody did it all but for step 4
    if reversals:
        reversals = await _reversed(stores, connection, batch_id)
    # Redis' clock decides how long a key lives, so it tells what is left of each window.
    host_ms = await _host_ms(stores.redis.client)
    written = await write_windows(
        connection,
        batch_id,
        partition,
        rules,
        fenced_writer(stores.redis, batch_id, partition, rebuilding),
        host_ms=host_ms,
        backlog=read_backlog(stores.redis.client, partition),
        customers=None if rebuilds else [UUID(bytes=use.customer) for use in reversals if use.customer],
    )
    # Customers to whom nothing is left keep the windows they had.
    await return_uses(stores.redis, batch_id, reversals)
    await put_batch(stores.redis, row, rules)
    await note_returned(connection, reversals)
    log.info("windows rebuilt", batch_id=str(batch_id), revision=row["revision"], customers=written)


async def _reversed(stores: Stores, connection: PoolConnection, batch_id: UUID) -> list[PendingReversal]:
    backlog = read_backlog(stores.redis.client, partition_of(batch_id, stores.redis.partitions))
    return await uses_reversed(connection, batch_id, backlog=backlog)


async def _time_of(client: aioredis.Redis, partition: int) -> int:
    """The time in ms that the next use or redemption has at the least."""
    async with redis_errors_translated():
        clock = await client.hget(partition_keys(partition).state, "clock")
    return max(await _host_ms(client), int(clock or 0))


async def _host_ms(client: aioredis.Redis) -> int:
    """The time of Redis' host in ms."""
    async with redis_errors_translated():
        return time_ms(await client.time())


def _needs_rebuild(row: asyncpg.Record, rules: Rules) -> bool:
    """Whether Redis' windows may lack redemptions that the rules count.

    Not for the rules that the batch was made with: whoever redeemed did so under them.
    """
    changed = row["rules_revision"] > max(row["redis_revision"], 1)
    return changed and row["ended_at"] is None and Span.of(rules) is not None
