"""The answers kept for Idempotency-Keys, restored from the ledger after a loss of Redis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from issuer.batches.window_rebuild import CALL_SIZE, ROUND_TRIP_SIZE, find_dead_letters, find_pools
from issuer.contract.elements import ELEMENT
from issuer.contract.events import Redemption, encode_order
from issuer.contract.keys import IDEMPOTENCY_TTL_MS, batch_keys, partition_keys, partition_of
from issuer.contract.scripts import PUT_ANSWERS
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import ScriptCall, ScriptRunner, Value, redis_errors_translated
from issuer.storage.stores import Stores

# The code is that of the ledger, whatever became of the row in codes. LATERAL … LIMIT 1 fixes the plan: one look-up for
# each redemption, however many codes there are.
_OF_REDEMPTION: Final = "r.code || coalesce(chr(29) || c.attributes::text, '')"
_ANSWERS: Final = f"""
SELECT r.key_hash, r.pool_id, r.seq, r.epoch, coalesce(r.serial, 0) AS serial, NULL AS order_id,
  {_OF_REDEMPTION} AS code, (date_part('epoch', r.redeemed_at) * 1000)::bigint AS at_ms
FROM redemptions r LEFT JOIN LATERAL (
  SELECT attributes FROM codes WHERE codes.pool_id = r.pool_id AND codes.seq = r.seq LIMIT 1) c ON true
WHERE r.pool_id = ANY($1) AND r.key_hash IS NOT NULL
  AND r.redeemed_at > timestamptz 'epoch' + $2::bigint * interval '1 ms'
  AND (NOT $3 OR EXISTS (SELECT FROM late_rows l WHERE l.pool_id = r.pool_id AND l.seq = r.seq))
UNION ALL
SELECT c.key_hash, c.pool_id, c.seq, c.epoch, coalesce(c.serial, 0), coalesce(c.order_id, ''),
  concat_ws(' ', replace(c.call_id::text, '-', ''), t.number, t.terms::text),
  (date_part('epoch', c.consumed_at) * 1000)::bigint
FROM consumptions c JOIN coupon_terms t ON t.pool_id = c.pool_id AND t.number = c.terms
WHERE c.pool_id = ANY($1) AND c.key_hash IS NOT NULL
  AND c.consumed_at > timestamptz 'epoch' + $2::bigint * interval '1 ms'
  AND (NOT $3 OR EXISTS (SELECT FROM late_rows l WHERE l.pool_id = c.pool_id AND l.seq = c.seq))
ORDER BY at_ms"""

_OF_LETTERS: Final = f"""
SELECT {ELEMENT.format(table="c")} AS element, t.terms::text AS terms
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[]) WITH ORDINALITY AS l(pool_id, seq, code, number, place)
LEFT JOIN codes c ON c.pool_id = l.pool_id AND c.seq = l.seq AND c.code = l.code
LEFT JOIN coupon_terms t ON t.pool_id = l.pool_id AND t.number = l.number
ORDER BY l.place"""

_KeptAnswer = tuple[int, bytes, bytes, int]
"""Partition, key, answer as redeem.lua keeps it, and ms to keep it."""


class _KeyPrefixes:
    """Where the kept answers of pools are: the partition, and what the keys begin with."""

    def __init__(self, pools: Mapping[int, UUID], partitions: int) -> None:
        self._of_pools = dict[int, tuple[int, bytes]]()
        for pool_id, batch_id in pools.items():
            partition = partition_of(batch_id, partitions)
            self._of_pools[pool_id] = partition, batch_keys(partition, batch_id).idempotency_prefix

    def of(self, pool_id: int, key_hash: bytes) -> tuple[int, bytes]:
        """Return the partition and the key of an answer."""
        partition, prefix = self._of_pools[pool_id]
        return partition, prefix + key_hash


async def restore_answers(
    connection: Connection, redis: ScriptRunner, batch_ids: Sequence[UUID], *, host_ms: int
) -> int:
    """Write the kept answers of fenced batches, each for the rest of its 24 h. Return how many were written.

    `host_ms` is Redis' clock. Rows are read through a cursor, so memory does not grow with their number.
    """
    written = 0
    async with connection.transaction():
        pools = await find_pools(connection, batch_ids)
        prefixes = _KeyPrefixes(pools, redis.partitions)
        answers = await _of_dead_letters(connection, list(pools), prefixes, host_ms)
        since_ms = host_ms - IDEMPOTENCY_TTL_MS
        written += await _write(redis, answers)
        # Rows are sorted by time before the first one is returned: memory makes that faster.
        await connection.execute("SET LOCAL work_mem = '64MB'")
        cursor = await connection.cursor(_ANSWERS, list(pools), since_ms, False)
        while rows := await cursor.fetch(ROUND_TRIP_SIZE):
            written += await _write(redis, _kept_rows(rows, prefixes, host_ms))
    return written


async def _of_dead_letters(
    connection: Connection, pool_ids: Sequence[int], prefixes: _KeyPrefixes, host_ms: int
) -> list[_KeptAnswer]:
    letters = [
        (letter, letter.key_hash, keep_ms)
        for letter in await find_dead_letters(connection, pool_ids)
        if letter.key_hash is not None and (keep_ms := _keep_ms(letter.redeemed_at_ms, host_ms)) > 0
    ]
    if not letters:
        return []
    columns = zip(*[(letter.pool_id, letter.seq, letter.code, letter.terms) for letter, _, _ in letters], strict=True)
    found = await connection.fetch(_OF_LETTERS, *map(list, columns))
    answers = list[_KeptAnswer]()
    for (letter, key_hash, keep_ms), row in zip(letters, found, strict=True):
        if (answer := _kept_letter(letter, row)) is not None:
            answers.append((*prefixes.of(letter.pool_id, key_hash), answer, keep_ms))
    return answers


def _kept_letter(letter: Redemption, row: asyncpg.Record) -> bytes | None:
    order_id, code = None, letter.code if row["element"] is None else row["element"]
    if letter.terms:
        if row["terms"] is None or letter.call_id is None:
            return None
        order_id, code = letter.order_id, f"{letter.call_id.hex} {letter.terms} {row['terms']}"
    return _kept((letter.pool_id, letter.seq, letter.redeemed_at_ms, letter.epoch, letter.serial), order_id, code)


def _kept_rows(rows: Sequence[asyncpg.Record], prefixes: _KeyPrefixes, host_ms: int) -> list[_KeptAnswer]:
    return [
        (*prefixes.of(pool_id, key_hash), _kept((pool_id, seq, at_ms, epoch, serial), order_id, code),
         _keep_ms(at_ms, host_ms))
        for key_hash, pool_id, seq, epoch, serial, order_id, code, at_ms in rows
    ]  # fmt: skip


async def put_late_answers(
    stores: Stores, connection: PoolConnection, batch_ids: Sequence[UUID], *, host_ms: int
) -> None:
    """Bring the answers of rows recorded late to the blessed Redis. One that is kept stays: a customer has it."""
    pools = await find_pools(connection, batch_ids)
    prefixes = _KeyPrefixes(pools, stores.redis.partitions)
    rows = await connection.fetch(_ANSWERS, list(pools), host_ms - IDEMPOTENCY_TTL_MS, True)
    for at in range(0, len(rows), CALL_SIZE):
        answers = _kept_rows(rows[at : at + CALL_SIZE], prefixes, host_ms)
        pipeline = stores.redis.client.pipeline(transaction=False)
        for _, key, _, _ in answers:
            pipeline.get(key)
        async with redis_errors_translated():
            kept = await pipeline.execute()
        await _write(stores.redis, [answer for answer, there in zip(answers, kept, strict=True) if there is None])


def _keep_ms(at_ms: int, host_ms: int) -> int:
    """Return the rest of an answer's 24 h; all of them for a time in the future, which only a wrong clock can state."""
    return min(at_ms + IDEMPOTENCY_TTL_MS - host_ms, IDEMPOTENCY_TTL_MS)


def _kept(fact: tuple[int, int, int, int, int], order_id: str | None, code: str) -> bytes:
    """Encode an answer as redeem.lua keeps it. `fact`: pool id, seq, ms, epoch, serial.

    `order_id` None: a redemption, not a consumption.
    """
    order = b"" if order_id is None else encode_order(order_id)
    return b"%d %d %013d %d %d %b%b" % (*fact, order, code.encode())


async def _write(redis: ScriptRunner, answers: Sequence[_KeptAnswer]) -> int:
    of_partitions = defaultdict[int, list[_KeptAnswer]](list)
    for answer in answers:
        of_partitions[answer[0]].append(answer)
    calls = [
        _call(partition, some[at : at + CALL_SIZE])
        for partition, some in of_partitions.items()
        for at in range(0, len(some), CALL_SIZE)
    ]
    if calls:
        await redis.run_all(PUT_ANSWERS, calls)
    return len(answers)


def _call(partition: int, answers: Sequence[_KeptAnswer]) -> ScriptCall:
    args: list[Value] = [part for _, _, kept, keep_ms in answers for part in (kept, keep_ms)]
    return [partition_keys(partition).state, *(key for _, key, _, _ in answers)], args
