"""Erasure of a customer's id from the ledger, from anomalies and from the windows in Redis. Rows stay and are counted.

A redemption in the backlog would bring the id back, so the erasure waits for the worker to record those, and erases
nothing if that takes too long. Later redemptions of the customer are not covered. Limits start over for the customer,
since the windows in Redis carry the id in their names. Dead letters hold whole stream entries with other customers'
redemptions. A resolved one is removed, since the ledger has its redemptions; the others are counted for the operator,
who resolves them and repeats the erasure.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.access import audit
from issuer.batches.window_rebuild import read_backlog
from issuer.contract.keys import batch_keys, partition_of
from issuer.storage.postgres import PoolConnection, count_of, unavailable_translated
from issuer.storage.redis_link import redis_errors_translated
from issuer.storage.stores import Stores

_TIMEOUT_S: Final = 900.0
_POLL_EVERY_S: Final = 0.2


class BacklogNotEmptyError(Exception):
    """The customer has redemptions in the backlog. Nothing was erased."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased, and how many dead letters still contain the id."""

    redemptions: int
    consumptions: int
    batches: int
    anomalies: int
    dead_letters: int


# A function of the schema that can do nothing else to the ledger.
_LEDGER: Final = "SELECT batch_id, count, of_coupons FROM erase_customer($1)"

_ANOMALIES: Final = """
UPDATE anomalies SET detail = replace(detail::text, $1, 'erased')::jsonb WHERE position($1 IN detail::text) > 0"""

_DEAD_LETTERS: Final = """
WITH found AS (
  SELECT id, resolved_at FROM dead_letters
  WHERE EXISTS (SELECT FROM unnest(raw) AS part WHERE position($1::bytea IN part) > 0)),
removed AS (DELETE FROM dead_letters WHERE id IN (SELECT id FROM found WHERE resolved_at IS NOT NULL))
SELECT count(*) FROM found WHERE resolved_at IS NULL"""


async def erase_customer(stores: Stores, customer_id: UUID, *, actor: str, wait_s: float = 30.0) -> Erasure:
    """Erase the id; a repetition is harmless. The audit log holds a hash of the id.

    Raises BacklogNotEmptyError after `wait_s`, RedisUnavailableError, PostgresUnavailableError; nothing is erased then.
    """
    give_up_at = time.monotonic() + wait_s
    while await _is_in_backlog(stores, customer_id):
        if time.monotonic() > give_up_at:
            raise BacklogNotEmptyError(
                "the customer has redemptions that are not in the ledger yet; is the worker running?"
            )
        await asyncio.sleep(_POLL_EVERY_S)
    async with unavailable_translated(), stores.postgres.acquire() as connection, connection.transaction():
        return await _erase(stores, connection, customer_id, actor)


async def _erase(stores: Stores, connection: PoolConnection, customer_id: UUID, actor: str) -> Erasure:
    rows = await connection.fetch(_LEDGER, customer_id, timeout=_TIMEOUT_S)
    status = await connection.execute(_ANOMALIES, str(customer_id), timeout=_TIMEOUT_S)
    erasure = Erasure(
        redemptions=sum(row["count"] for row in rows if not row["of_coupons"]),
        consumptions=sum(row["count"] for row in rows if row["of_coupons"]),
        batches=len(rows),
        anomalies=count_of(status),
        dead_letters=await connection.fetchval(_DEAD_LETTERS, customer_id.bytes, timeout=_TIMEOUT_S),
    )
    # Before the commit, which destroys the record of which windows are the customer's. Stopped in between, the erasure
    # is repeated; a window that is missing only resets a limit.
    for row in rows:
        batch_id = UUID(bytes=row["batch_id"].bytes)
        keys = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id)
        async with redis_errors_translated():
            await stores.redis.client.unlink(keys.window_prefix + customer_id.bytes)
    await audit.record(
        connection,
        actor=actor,
        action="customer.erase",
        subject=f"customer:sha256:{hashlib.sha256(customer_id.bytes).hexdigest()}",
        detail={"redemptions": erasure.redemptions, "consumptions": erasure.consumptions, "batches": erasure.batches},
    )
    return erasure


async def _is_in_backlog(stores: Stores, customer_id: UUID) -> bool:
    for partition in range(stores.redis.partitions):
        async for page in read_backlog(stores.redis.client, partition):
            if any(redemption.customer_id == customer_id for redemption in page):
                return True
    return False
