"""Uses of coupons that were given back: from then on no limit counts them.

The window of the customer is changed in place, also after windows were made anew: one that nothing is left for is not
among those. Then they are noted. Whoever does either holds the lock of the batch, or the one of a recovery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.batches.windows import dead_letters_of
from issuer.contract.events import Redemption
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import RETURN_USES
from issuer.instants import to_ms
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import NotReadyError, ScriptRunner

_BATCH_SIZE: Final = 500


@dataclass(frozen=True, slots=True)
class PendingReversal:
    """A use that Redis has not heard of as given back. `customer` None: nobody's, or erased."""

    batch_id: UUID
    pool_id: int
    seq: int
    customer: bytes | None
    at_ms: int
    stay: int
    """Uses by that customer in the same ms that were not given back, in the ledger or on their way there."""


_NEWEST: Final = """
SELECT array_agg(DISTINCT v.pool_id) AS pool_ids, max(c.consumed_at) AS consumed_at
FROM reversals v JOIN consumptions c ON c.pool_id = v.pool_id AND c.seq = v.seq JOIN pools p ON p.id = v.pool_id
WHERE v.returned_at IS NULL AND ($1::uuid IS NULL OR p.batch_id = $1)"""

_WAITING: Final = """
SELECT p.batch_id, v.pool_id, v.seq, c.customer_id, c.consumed_at, same_time.seqs, same_time.stay
FROM reversals v JOIN consumptions c ON c.pool_id = v.pool_id AND c.seq = v.seq JOIN pools p ON p.id = v.pool_id
CROSS JOIN LATERAL (
  SELECT array_agg(o.seq) AS seqs,
    count(*) FILTER (WHERE NOT EXISTS (SELECT FROM reversals r WHERE r.pool_id = o.pool_id AND r.seq = o.seq)) AS stay
  FROM consumptions o
  WHERE o.pool_id = c.pool_id AND o.customer_id = c.customer_id AND o.consumed_at = c.consumed_at) same_time
WHERE v.returned_at IS NULL AND v.pool_id = ANY($1) AND c.consumed_at <= $2
ORDER BY v.pool_id, v.seq"""

_NOTE: Final = """
UPDATE reversals v SET returned_at = now() FROM unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE v.pool_id = e.pool_id AND v.seq = e.seq"""


_Moment = tuple[int, bytes, int]
"""A pool, a customer, and a time in ms."""


async def uses_reversed(
    connection: Connection | PoolConnection,
    batch_id: UUID | None = None,
    *,
    backlog: AsyncGenerator[Sequence[Redemption], None] | None = None,
) -> list[PendingReversal]:
    """Those of one coupon, or of all, that `note_returned` was not told of.

    `backlog`: what may not be in the ledger yet, oldest first (None: nothing), read before the ledger and no further
    than needed.
    """
    newest = await connection.fetchrow(_NEWEST, batch_id)
    if newest is None or newest["consumed_at"] is None:
        return []
    beside = await _unrecorded(connection, newest["pool_ids"], to_ms(newest["consumed_at"]), backlog)
    found = []
    for row in await connection.fetch(_WAITING, newest["pool_ids"], newest["consumed_at"]):
        customer = row["customer_id"].bytes if row["customer_id"] else None
        pool_id, at_ms, stay = row["pool_id"], to_ms(row["consumed_at"]), row["stay"]
        if customer is not None:
            stay += len(beside.get((pool_id, customer, at_ms), set()).difference(row["seqs"]))
        found.append(PendingReversal(UUID(bytes=row["batch_id"].bytes), pool_id, row["seq"], customer, at_ms, stay))
    return found


async def _unrecorded(
    connection: Connection | PoolConnection,
    pool_ids: Sequence[int],
    newest_ms: int,
    backlog: AsyncGenerator[Sequence[Redemption], None] | None,
) -> Mapping[_Moment, set[int]]:
    """The numbers of the uses up to a time that may be in the ledger or may not, by whose and when."""
    found = defaultdict[_Moment, set[int]](set)

    def add(uses: Sequence[Redemption]) -> None:
        for use in uses:
            if use.customer_id is not None and use.pool_id in pool_ids:
                found[use.pool_id, use.customer_id.bytes, use.redeemed_at_ms].add(use.seq)

    if backlog is not None:
        async with aclosing(backlog) as pages:
            async for some in pages:
                add(some)
                if some and some[-1].redeemed_at_ms > newest_ms:
                    break
    add(await dead_letters_of(connection, pool_ids))
    return found


async def return_uses(redis: ScriptRunner, batch_id: UUID, uses: Sequence[PendingReversal]) -> None:
    """Takes them out of the windows of their customers; to repeat it changes nothing.

    Raises NotReadyError and RedisUnavailableError.
    """
    partition = partition_of(batch_id, redis.partitions)
    prefix, state = batch_keys(partition, batch_id).window_prefix, partition_keys(partition).state
    for at in range(0, len(uses), _BATCH_SIZE):
        keys, args = list[str | bytes]([state]), list[str | bytes | int]()
        for use in uses[at : at + _BATCH_SIZE]:
            if use.customer:
                keys.append(prefix + use.customer)
                args += [f"{use.at_ms:013d}", use.stay]
        reply = await redis.run(RETURN_USES, keys, args)
        if reply[0] != b"DONE":
            raise NotReadyError(f"uses of coupon {batch_id} could not be given back: {reply!r}")


async def note_returned(connection: Connection | PoolConnection, uses: Sequence[PendingReversal]) -> None:
    """Redis has heard of them."""
    if uses:
        await connection.execute(_NOTE, [use.pool_id for use in uses], [use.seq for use in uses])
