"""The codes of batches and their pools at a glance: how many there are and were issued, without counting the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.pools.counters import NOT_IN_REDIS, PoolCounters, read_pool_counters
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

MAX_READ_POOLS: Final = 500
"""Pools of a batch whose counters are read: one round trip. Of a batch with more, only the codes are counted."""

_TOTALS: Final = """
SELECT batch_id, count(*) AS pools, sum(total)::bigint AS total,
  CASE WHEN count(*) <= $3 THEN array_agg(client_id) FILTER (WHERE final_issued IS NULL) END AS open,
  coalesce(sum(final_issued), 0)::bigint AS final_issued
FROM pools WHERE batch_id = ANY ($1) AND ($2::uuid IS NULL OR client_id = $2) GROUP BY batch_id"""


@dataclass(frozen=True, slots=True)
class BatchTotal:
    """`issued` None: not known, because Redis is unavailable or the batch has too many pools."""

    total: int
    issued: int | None
    pools: int


_POOLS: Final = """
SELECT p.client_id, (SELECT name FROM clients WHERE clients.id = p.client_id) AS client_name, p.total, p.final_issued,
  (SELECT count(*) FROM quarantined s WHERE s.pool_id = p.id AND NOT EXISTS
    (SELECT FROM ledger r WHERE r.pool_id = s.pool_id AND r.seq = s.seq)) AS quarantined
FROM pools p WHERE p.batch_id = $1 AND ($2::uuid IS NULL OR p.client_id = $2) ORDER BY p.id LIMIT $3"""


@dataclass(frozen=True, slots=True)
class PoolTotal:
    """One pool. `issued` None: Redis is unavailable. `client_name` None: the client is not registered."""

    client_id: UUID
    client_name: str | None
    total: int
    issued: int | None
    quarantined: int


async def read_pool_totals(stores: Stores, batch_id: UUID, *, client_id: UUID | None = None) -> Sequence[PoolTotal]:
    """Return the first pools of a batch, at most MAX_READ_POOLS, or that of one client.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        rows = await stores.postgres.fetch(_POOLS, batch_id, client_id, MAX_READ_POOLS)
    clients = [UUID(bytes=row["client_id"].bytes) for row in rows]
    found: Sequence[PoolCounters | None] | None = None
    with suppress(RedisUnavailableError):
        found = await read_pool_counters(stores.redis, [(batch_id, client) for client in clients])
    totals = []
    for place, (row, client) in enumerate(zip(rows, clients, strict=True)):
        issued = row["final_issued"]
        if issued is None and found is not None:
            issued = (found[place] or NOT_IN_REDIS).issued
        totals.append(PoolTotal(client, row["client_name"], row["total"], issued, row["quarantined"]))
    return totals


async def read_totals(
    stores: Stores, batch_ids: Sequence[UUID], *, client_id: UUID | None = None
) -> Mapping[UUID, BatchTotal]:
    """Return the totals of each batch, or of one client in it. Raises PostgresUnavailableError."""
    totals: dict[UUID, BatchTotal] = {batch_id: BatchTotal(0, 0, 0) for batch_id in batch_ids}
    async with unavailable_translated():
        rows = await stores.postgres.fetch(_TOTALS, batch_ids, client_id, MAX_READ_POOLS)
    issued = await _read_issued(stores, rows)
    for row in rows:
        batch_id = UUID(bytes=row["batch_id"].bytes)
        known = (
            row["final_issued"] + issued[batch_id] if issued is not None and row["pools"] <= MAX_READ_POOLS else None
        )
        totals[batch_id] = BatchTotal(row["total"], known, row["pools"])
    return totals


async def _read_issued(stores: Stores, rows: Sequence[Any]) -> defaultdict[UUID, int] | None:
    """Return how many codes of the open pools of each batch were issued; None: Redis is unavailable."""
    pools = [(UUID(bytes=row["batch_id"].bytes), UUID(bytes=one.bytes)) for row in rows for one in row["open"] or ()]
    issued: defaultdict[UUID, int] = defaultdict(int)
    try:
        found = await read_pool_counters(stores.redis, pools)
    except RedisUnavailableError:
        return None
    for (batch_id, _), counters in zip(pools, found, strict=True):
        issued[batch_id] += 0 if counters is None else counters.issued
    return issued
