"""Reversed consumptions of coupons: remove them from the windows, so that no limit counts them.

The customer's window is changed in place, even after windows were rebuilt: a rebuild writes no window for a customer
without remaining uses, so that customer's old window stands. Only then is the reversal marked as returned. Both steps
need the advisory lock of the batch, or that of a recovery.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from uuid import UUID

from issuer.batches.window_rebuild import find_dead_letters
from issuer.contract.events import Redemption
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.scripts import RETURN_USES
from issuer.instants import to_ms
from issuer.storage.postgres import Connection, PoolConnection
from issuer.storage.redis_link import NotReadyError, ScriptCall, ScriptRunner

_BATCH_SIZE: Final = 500


@dataclass(frozen=True, slots=True)
class PendingReversal:
    """A reversed use that Redis still counts. `customer` None: without a customer id, or erased."""

    batch_id: UUID
    pool_id: int
    seq: int
    customer: bytes | None
    at_ms: int
    stay: int
    """Uses of this customer in the same ms that are not reversed, in the ledger, the backlog or the dead letters."""


_NEWEST: Final = """
SELECT array_agg(DISTINCT v.pool_id) AS pool_ids, max(c.consumed_at) AS consumed_at
FROM reversals v JOIN consumptions c ON c.pool_id = v.pool_id AND c.seq = v.seq JOIN pools p ON p.id = v.pool_id
WHERE v.returned_at IS NULL AND ($1::uuid IS NULL OR p.batch_id = $1)"""

_PENDING: Final = """
SELECT p.batch_id, v.pool_id, v.seq, c.customer_id, c.consumed_at, same_time.seqs, same_time.stay
FROM reversals v JOIN consumptions c ON c.pool_id = v.pool_id AND c.seq = v.seq JOIN pools p ON p.id = v.pool_id
CROSS JOIN LATERAL (
  SELECT array_agg(o.seq) AS seqs,
    count(*) FILTER (WHERE NOT EXISTS (SELECT FROM reversals r WHERE r.pool_id = o.pool_id AND r.seq = o.seq)) AS stay
  FROM consumptions o
  WHERE o.pool_id = c.pool_id AND o.customer_id = c.customer_id AND o.consumed_at = c.consumed_at) same_time
WHERE v.returned_at IS NULL AND v.pool_id = ANY($1) AND c.consumed_at <= $2
ORDER BY v.pool_id, v.seq"""

_MARK_RETURNED: Final = """
UPDATE reversals v SET returned_at = now() FROM unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE v.pool_id = e.pool_id AND v.seq = e.seq"""


_Moment = tuple[int, bytes, int]
"""A pool, a customer, and a time in ms."""


async def find_pending_reversals(
    connection: Connection | PoolConnection,
    batch_id: UUID | None = None,
    *,
    backlog: AsyncGenerator[Sequence[Redemption], None] | None = None,
) -> list[PendingReversal]:
    """Return the reversals of one coupon, or of all, that are not marked as returned.

    `backlog`: uses that may not be in the ledger yet, oldest first (None: none). It is read before the ledger and no
    further than needed.
    """
    newest = await connection.fetchrow(_NEWEST, batch_id)
    if newest is None or newest["consumed_at"] is None:
        return []
    unrecorded = await _find_unrecorded(connection, newest["pool_ids"], to_ms(newest["consumed_at"]), backlog)
    reversals = []
    for row in await connection.fetch(_PENDING, newest["pool_ids"], newest["consumed_at"]):
        customer = row["customer_id"].bytes if row["customer_id"] else None
        pool_id, at_ms, stay = row["pool_id"], to_ms(row["consumed_at"]), row["stay"]
        if customer is not None:
            stay += len(unrecorded.get((pool_id, customer, at_ms), set()).difference(row["seqs"]))
        reversals.append(PendingReversal(UUID(bytes=row["batch_id"].bytes), pool_id, row["seq"], customer, at_ms, stay))
    return reversals


async def _find_unrecorded(
    connection: Connection | PoolConnection,
    pool_ids: Sequence[int],
    newest_ms: int,
    backlog: AsyncGenerator[Sequence[Redemption], None] | None,
) -> Mapping[_Moment, set[int]]:
    """Return the seqs of uses up to a time that may be missing in the ledger, by pool, customer and time."""
    seqs, of_pools = defaultdict[_Moment, set[int]](set), frozenset(pool_ids)

    def add(uses: Sequence[Redemption]) -> None:
        for use in uses:
            if use.customer_id is not None and use.pool_id in of_pools:
                seqs[use.pool_id, use.customer_id.bytes, use.redeemed_at_ms].add(use.seq)

    if backlog is not None:
        async with aclosing(backlog) as pages:
            async for page in pages:
                add(page)
                if page and page[-1].redeemed_at_ms > newest_ms:
                    break
    add(await find_dead_letters(connection, pool_ids))
    return seqs


async def return_uses(redis: ScriptRunner, uses: Sequence[PendingReversal]) -> None:
    """Remove uses from the windows of their customers. Repeating this changes nothing.

    Raises NotReadyError and RedisUnavailableError.
    """
    for at in range(0, len(uses), _BATCH_SIZE):
        calls = dict[UUID, ScriptCall]()
        for batch_id, some in groupby(uses[at : at + _BATCH_SIZE], lambda use: use.batch_id):
            partition = partition_of(batch_id, redis.partitions)
            prefix, state = batch_keys(partition, batch_id).window_prefix, partition_keys(partition).state
            counted = [(use, use.customer) for use in some if use.customer]
            windows, args = [prefix + customer for _, customer in counted], list[str | bytes | int]()
            for use, _ in counted:
                args += [f"{use.at_ms:013d}", use.stay]
            calls[batch_id] = ([state, *windows], args)
        for batch_id, reply in zip(calls, await redis.run_all(RETURN_USES, list(calls.values())), strict=True):
            if reply[0] != b"DONE":
                raise NotReadyError(f"reversed uses of coupon {batch_id} were not removed from its windows: {reply!r}")


async def mark_returned(connection: Connection | PoolConnection, uses: Sequence[PendingReversal]) -> None:
    """Mark reversals as returned: Redis no longer counts these uses."""
    if uses:
        await connection.execute(_MARK_RETURNED, [use.pool_id for use in uses], [use.seq for use in uses])
