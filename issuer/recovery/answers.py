"""The answers kept for Idempotency-Keys, restored from the ledger after a loss of Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from issuer.batches.windows import find_dead_letters, find_pool_ids
from issuer.contract.elements import ELEMENT
from issuer.contract.events import encode_order
from issuer.contract.keys import IDEMPOTENCY_TTL_MS, batch_keys, partition_keys, partition_of
from issuer.contract.scripts import PUT_ANSWERS
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import ScriptRunner, Value, redis_errors_translated
from issuer.storage.stores import Stores

_BATCH_SIZE: Final = 1_000

# The code is that of the ledger, whatever became of the row in codes.
_OF_REDEMPTION: Final = "r.code || coalesce(chr(29) || c.attributes::text, '')"
_ANSWERS: Final = f"""
SELECT r.key_hash, r.pool_id, r.seq, r.epoch, coalesce(r.serial, 0) AS serial, NULL AS order_id,
  {_OF_REDEMPTION} AS code, (extract(epoch FROM r.redeemed_at) * 1000)::bigint AS at_ms
FROM redemptions r LEFT JOIN codes c ON c.pool_id = r.pool_id AND c.seq = r.seq
WHERE r.pool_id = ANY($1) AND r.key_hash IS NOT NULL
  AND r.redeemed_at > timestamptz 'epoch' + $2::bigint * interval '1 ms'
  AND (NOT $3 OR EXISTS (SELECT FROM late_rows l WHERE l.pool_id = r.pool_id AND l.seq = r.seq))
UNION ALL
SELECT c.key_hash, c.pool_id, c.seq, c.epoch, coalesce(c.serial, 0), coalesce(c.order_id, ''),
  concat_ws(' ', replace(c.call_id::text, '-', ''), t.number, t.terms::text),
  (extract(epoch FROM c.consumed_at) * 1000)::bigint
FROM consumptions c JOIN coupon_terms t ON t.pool_id = c.pool_id AND t.number = c.terms
WHERE c.pool_id = ANY($1) AND c.key_hash IS NOT NULL
  AND c.consumed_at > timestamptz 'epoch' + $2::bigint * interval '1 ms'
  AND (NOT $3 OR EXISTS (SELECT FROM late_rows l WHERE l.pool_id = c.pool_id AND l.seq = c.seq))
ORDER BY at_ms"""

_ELEMENT: Final = f"SELECT {ELEMENT.format(table='codes')} FROM codes WHERE pool_id = $1 AND seq = $2 AND code = $3"
_TERMS: Final = "SELECT terms::text FROM coupon_terms WHERE pool_id = $1 AND number = $2"

_KeptAnswer = tuple[bytes, bytes, int]
"""Key, answer as redeem.lua keeps it, and ms to keep it."""


async def restore_answers(
    connection: Connection, redis: ScriptRunner, batch_id: UUID, partition: int, *, host_ms: int
) -> int:
    """Write the kept answers of a fenced batch, each for the rest of its 24 h. Return how many were written.

    `host_ms` is Redis' clock. Rows are read through a cursor, so memory does not grow with their number.
    """
    prefix = batch_keys(partition, batch_id).idempotency_prefix
    written = 0
    answers: list[_KeptAnswer] = []
    async with connection.transaction():
        pool_ids = await find_pool_ids(connection, batch_id)
        for letter in await find_dead_letters(connection, pool_ids):
            keep_ms = _keep_ms(letter.redeemed_at_ms, host_ms)
            if letter.key_hash is not None and keep_ms > 0:
                order_id, code = None, letter.code
                if not letter.terms:
                    element = await connection.fetchval(_ELEMENT, letter.pool_id, letter.seq, letter.code)
                    code = letter.code if element is None else element
                else:
                    terms = await connection.fetchval(_TERMS, letter.pool_id, letter.terms)
                    if terms is None or letter.call_id is None:
                        continue
                    order_id, code = letter.order_id, f"{letter.call_id.hex} {letter.terms} {terms}"
                fact = (letter.pool_id, letter.seq, letter.redeemed_at_ms, letter.epoch, letter.serial)
                answer = _kept(fact, order_id, code)
                answers.append((prefix + letter.key_hash, answer, keep_ms))
        since_ms = host_ms - IDEMPOTENCY_TTL_MS
        async for row in connection.cursor(_ANSWERS, pool_ids, since_ms, False, prefetch=_BATCH_SIZE):
            answers.append(_kept_row(row, prefix, host_ms))
            if len(answers) >= _BATCH_SIZE:
                written += await _write(redis, partition, answers)
                answers = []
        written += await _write(redis, partition, answers)
    return written


def _kept_row(row: asyncpg.Record, prefix: bytes, host_ms: int) -> _KeptAnswer:
    fact = (row["pool_id"], row["seq"], row["at_ms"], row["epoch"], row["serial"])
    return prefix + row["key_hash"], _kept(fact, row["order_id"], row["code"]), _keep_ms(row["at_ms"], host_ms)


async def put_late_answers(stores: Stores, connection: PoolConnection, batch_id: UUID, *, host_ms: int) -> None:
    """Bring the answers of rows recorded late to the blessed Redis. One that is kept stays: a customer has it."""
    partition = partition_of(batch_id, stores.redis.partitions)
    prefix = batch_keys(partition, batch_id).idempotency_prefix
    pool_ids = await find_pool_ids(connection, batch_id)
    rows = await connection.fetch(_ANSWERS, pool_ids, host_ms - IDEMPOTENCY_TTL_MS, True)
    for at in range(0, len(rows), _BATCH_SIZE):
        answers = [_kept_row(row, prefix, host_ms) for row in rows[at : at + _BATCH_SIZE]]
        async with redis_errors_translated():
            kept = await stores.redis.client.mget([key for key, _, _ in answers])
        missing = [answer for answer, there in zip(answers, kept, strict=True) if there is None]
        await _write(stores.redis, partition, missing)


def _keep_ms(at_ms: int, host_ms: int) -> int:
    """Return the rest of an answer's 24 h; all of them for a time in the future, which only a wrong clock can state."""
    return min(at_ms + IDEMPOTENCY_TTL_MS - host_ms, IDEMPOTENCY_TTL_MS)


def _kept(fact: tuple[int, int, int, int, int], order_id: str | None, code: str) -> bytes:
    """Encode an answer as redeem.lua keeps it. `fact`: pool id, seq, ms, epoch, serial.

    `order_id` None: a redemption, not a consumption.
    """
    order = b"" if order_id is None else encode_order(order_id)
    return b"%d %d %013d %d %d %b%b" % (*fact, order, code.encode())


async def _write(redis: ScriptRunner, partition: int, answers: Sequence[_KeptAnswer]) -> int:
    if answers:
        keys: list[str | bytes] = [partition_keys(partition).state, *(key for key, _, _ in answers)]
        args: list[Value] = [part for _, kept, keep_ms in answers for part in (kept, keep_ms)]
        await redis.run(PUT_ANSWERS, keys, args)
    return len(answers)
