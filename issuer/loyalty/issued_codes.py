"""Which codes were issued under given Idempotency-Keys, wherever their events are now.

The places are read in the order in which an event travels: the stream, then the dead letters and the ledger. So an
event that the worker moves meanwhile is found. Redis' kept answers are not read: they may have expired, or be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from issuer.batches.window_rebuild import find_dead_letters, find_pools, read_backlog
from issuer.contract.keys import partition_keys, partition_of
from issuer.storage.postgres import PoolConnection, unavailable_translated
from issuer.storage.redis_link import NotReadyError, redis_errors_translated
from issuer.storage.stores import Stores

# By the customer, whose redemptions an index finds. An erased customer's are found by their time.
_LEDGER: Final = """
SELECT code FROM redemptions WHERE customer_id = $1 AND batch_id = $2 AND key_hash = $3
UNION ALL
SELECT code FROM redemptions WHERE customer_id IS NULL AND batch_id = $2 AND key_hash = $3
  AND redeemed_at > $4::timestamptz - interval '1 day'"""


@dataclass(frozen=True, slots=True)
class AskedCode:
    """A request for a code that may have been granted. `since`: when it was first sent, by the clock of Postgres."""

    batch_id: UUID
    customer_id: UUID
    key_hash: bytes
    since: datetime


async def find_issued_codes(stores: Stores, asked: Sequence[AskedCode]) -> dict[bytes, str]:
    """Return the code of each request that was granted, by its `key_hash`. No request may still be on its way.

    Raises RedisUnavailableError and PostgresUnavailableError: then it is unknown what was granted.
    """
    wanted = {request.key_hash for request in asked}
    found: dict[bytes, str] = {}
    for partition in sorted({partition_of(request.batch_id, stores.redis.partitions) for request in asked}):
        async for page in read_backlog(stores.redis.client, partition):
            found |= {each.key_hash: each.code for each in page if each.key_hash in wanted}
        await _check_epoch(stores, partition)
    async with unavailable_translated(), stores.postgres.acquire() as connection:
        for request in asked:
            if request.key_hash not in found:
                code = await _find_recorded(connection, request)
                if code is not None:
                    found[request.key_hash] = code
    return found


async def _check_epoch(stores: Stores, partition: int) -> None:
    """Raise NotReadyError unless the stream that was read is the blessed server's: another one may have lost events."""
    async with redis_errors_translated():
        epoch = await stores.redis.client.hget(partition_keys(partition).state, "epoch")
    if epoch != b"%d" % stores.redis.epoch:
        raise NotReadyError(f"partition {partition} carries another epoch")


async def _find_recorded(connection: PoolConnection, request: AskedCode) -> str | None:
    for letter in await find_dead_letters(connection, list(await find_pools(connection, [request.batch_id]))):
        if letter.key_hash == request.key_hash:
            return letter.code
    code: str | None = await connection.fetchval(
        _LEDGER, request.customer_id, request.batch_id, request.key_hash, request.since
    )
    return code
