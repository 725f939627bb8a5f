"""What a recovery leaves to the worker. Every step can be repeated, and none is in a hurry.

- Codes whose seqs are void get new ones at the tail of their pools.
- A quarantine is released when every registration of the epochs that were lost is settled.
- A registration that was open when Redis was restarted is settled when no event of its epoch is left in the streams:
  the data were not lost, so all that its process can have received is in the ledger.
- Rows that were recorded after Redis had been rebuilt (a journal that came late) get their windows and kept answers.
"""

from __future__ import annotations

from typing import Final

import structlog

from issuer.access import audit
from issuer.batches.revisions import push_batch
from issuer.contract.keys import partition_keys
from issuer.ledger.dead_letters import count_unreadable
from issuer.ledger.entries import StreamEntry
from issuer.pools.group_loader import GROUP_SIZE, GroupLoader
from issuer.pools.pool import POOL_SELECT, Pool, lock_seqs
from issuer.recovery.answers import put_late_answers
from issuer.registration.registrations import find_open
from issuer.storage.incarnation import Blessed
from issuer.storage.lineage import IncidentError, TokenKind, new_token, refuse_incident
from issuer.storage.postgres import PoolConnection, count_of, unavailable_translated
from issuer.storage.redis_link import NotReadyError, redis_errors_translated, time_ms
from issuer.storage.stores import Stores

log = structlog.get_logger()

_STEP: Final = 10_000


async def finish_recoveries(stores: Stores) -> None:
    """Do all of it once, unless an incident or a recovery is in progress, which may show that it is wrong.

    Raises PostgresUnavailableError and RedisUnavailableError.
    """
    if stores.incarnations.blessed is None or stores.incarnations.incident:
        return
    async with unavailable_translated():
        await settle_carried(stores)
        await release_settled(stores)
        await reissue_void(stores)
        await bring_late_rows(stores)


_PAIR: Final = "SELECT epoch, run_id FROM installation FOR SHARE"


async def _lock_pair(stores: Stores, connection: PoolConnection) -> Blessed:
    """Lock the blessed pair until the end of the transaction. Raises NotReadyError during a recovery or an incident."""
    try:
        await refuse_incident(connection)
    except IncidentError as error:
        raise NotReadyError(str(error)) from error
    row = await connection.fetchrow(_PAIR)
    blessed = stores.incarnations.blessed
    if blessed is None or row is None or (row["epoch"], row["run_id"]) != (blessed.epoch, blessed.run_id):
        raise NotReadyError("a recovery is in progress")
    return blessed


_TO_REISSUE: Final = """
SELECT p.id, p.batch_id, b.kind = 'coupon' AS of_coupon FROM pools p JOIN batches b ON b.id = p.batch_id
WHERE p.id IN (SELECT pool_id FROM void_seqs WHERE reissued_as IS NULL) ORDER BY p.id"""
_REISSUE: Final = "SELECT sum(reissue_void(id, $2))::bigint FROM unnest($1::bigint[]) AS id"
_OF_IDS: Final = f"{POOL_SELECT} WHERE p.id = ANY($1) ORDER BY p.id"


async def reissue_void(stores: Stores) -> None:
    """Give the codes of void seqs new seqs, and load them. What cannot be loaded here the top-up loads."""
    found = await stores.postgres.fetch(_TO_REISSUE)
    for at in range(0, len(found), GROUP_SIZE):
        rows = found[at : at + GROUP_SIZE]
        ids = [row["id"] for row in rows]
        async with stores.postgres.acquire() as connection, connection.transaction():
            await _lock_pair(stores, connection)
            await lock_seqs(connection, *{row["batch_id"] for row in rows})
            codes = await connection.fetchval(_REISSUE, ids, max(1, _STEP // len(ids)))
        for row in rows:
            if row["of_coupon"]:
                await push_batch(stores, row["batch_id"])
        await GroupLoader(stores).load([Pool(**row) for row in await stores.postgres.fetch(_OF_IDS, ids)])
        log.info("reissued codes that no caller received", pools=len(ids), codes=codes)


_RANGES: Final = """
SELECT DISTINCT lost_after, lost_to FROM quarantined
WHERE released_at IS NULL AND lost_to IS NOT NULL ORDER BY lost_after, lost_to"""
# The code of a purchase is in Postgres whatever Redis has lost: the member has it.
_RELEASE: Final = """
WITH released AS (
  UPDATE quarantined q SET released_at = now()
  WHERE q.released_at IS NULL AND (q.lost_after, q.lost_to) = ($1, $2) AND NOT EXISTS (
    SELECT FROM codes c JOIN moves m ON m.code = c.code AND m.batch_id = c.batch_id AND m.state = 'done'
    WHERE c.pool_id = q.pool_id AND c.seq = q.seq)
  RETURNING q.pool_id, q.seq, q.epoch)
INSERT INTO void_seqs (pool_id, seq, epoch) SELECT pool_id, seq, epoch FROM released"""


async def release_settled(stores: Stores) -> None:
    """Make void what was quarantined for epochs of which everything that was answered is in the ledger by now."""
    for lost in await stores.postgres.fetch(_RANGES):
        async with stores.postgres.acquire() as connection, connection.transaction():
            if not await find_open(connection, *lost) and not await count_unreadable(connection):
                codes = count_of(await connection.execute(_RELEASE, *lost, timeout=600))
                await new_token(connection, TokenKind.SETTLING)
                detail = {"lost_after": lost["lost_after"], "lost_to": lost["lost_to"], "codes": codes}
                if codes:
                    await audit.record(
                        connection, actor="worker", action="quarantined.release", subject="settled", detail=detail
                    )
                    log.info("released quarantined codes: everything that was answered is known", **detail)


_CARRIED: Final = """
SELECT EXISTS (
  SELECT FROM registrations r, installation i
  WHERE r.settled IS NULL AND r.epoch > i.lost_epoch AND r.epoch < i.epoch AND i.run_id IS NOT NULL)"""
_SETTLE_CARRIED: Final = """
UPDATE registrations r SET settled = '{}', settled_at = clock_timestamp(),
  left_at = coalesce(left_at, clock_timestamp())
FROM installation i WHERE r.settled IS NULL AND r.epoch > i.lost_epoch AND r.epoch < $1"""


async def settle_carried(stores: Stores) -> None:
    """Settle registrations of epochs that ended in a restart, once the streams have nothing of them any more."""
    blessed = stores.incarnations.blessed
    if blessed is None or not await stores.postgres.fetchval(_CARRIED):
        return
    pipeline = stores.redis.client.pipeline(transaction=True)
    for partition in range(stores.redis.partitions):
        keys = partition_keys(partition)
        pipeline.hget(keys.state, "epoch")
        pipeline.xrange(keys.stream, count=1)
    async with redis_errors_translated():
        replies = await pipeline.execute()
    for partition, (epoch, entries) in enumerate(zip(replies[::2], replies[1::2], strict=True)):
        if epoch != str(blessed.epoch).encode():
            return
        if entries and StreamEntry(partition, "", entries[0][1]).epoch < blessed.epoch:
            return
    async with stores.postgres.acquire() as connection, connection.transaction():
        # A dead letter of a whole entry may contain what a process received.
        if await _lock_pair(stores, connection) == blessed and not await count_unreadable(connection):
            await connection.execute(_SETTLE_CARRIED, blessed.epoch)
            await new_token(connection, TokenKind.SETTLING)


_LATE: Final = "SELECT DISTINCT p.batch_id FROM late_rows l JOIN pools p ON p.id = l.pool_id ORDER BY p.batch_id"
_LATE_ROWS: Final = """
SELECT l.pool_id, l.seq FROM late_rows l JOIN pools p ON p.id = l.pool_id WHERE p.batch_id = ANY($1)"""
# As if the rules had changed: the push closes the batch and writes all its windows again, from stream and ledger.
_REBUILD_WINDOWS: Final = """
UPDATE batches SET revision = revision + 1, rules_revision = revision + 1 WHERE id = ANY($1) AND ended_at IS NULL"""
_STRIKE: Final = """
DELETE FROM late_rows l USING unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE l.pool_id = e.pool_id AND l.seq = e.seq"""


async def bring_late_rows(stores: Stores) -> None:
    """Bring the windows and kept answers of rows recorded late to Redis, then strike the rows off the list."""
    found = [row["batch_id"] for row in await stores.postgres.fetch(_LATE)]
    for at in range(0, len(found), GROUP_SIZE):
        batch_ids = found[at : at + GROUP_SIZE]
        async with redis_errors_translated():
            host_ms = time_ms(await stores.redis.client.time())
        rows = await stores.postgres.fetch(_LATE_ROWS, batch_ids)
        async with stores.postgres.acquire() as connection:
            await put_late_answers(stores, connection, batch_ids, host_ms=host_ms)
            await connection.execute(_REBUILD_WINDOWS, batch_ids)
        for batch_id in batch_ids:
            await push_batch(stores, batch_id)
        await stores.postgres.execute(_STRIKE, [row["pool_id"] for row in rows], [row["seq"] for row in rows])
        log.info("brought rows that were recorded late to Redis", batches=len(batch_ids), rows=len(rows))
