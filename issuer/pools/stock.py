"""Stock of a batch: for each client the codes that exist, those issued, and where each issued seq is accounted for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from issuer.paging import CHUNK_SIZE
from issuer.pools.counters import NOT_IN_REDIS, PoolCounters, read_pool_counters
from issuer.pools.pool_rate import RATE_COLUMNS, RATE_JOIN, UNKNOWN_RATE, PoolRate
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores


@dataclass(frozen=True, slots=True)
class Stock:
    """One pool. `in_redis`, `issued` and `backlog` are None while Redis is unavailable.

    `client_name` None: the client is not registered.

    ledger + backlog + quarantined + dead_letters = issued, except for redemptions made while the figures were read.
    """

    client_id: UUID
    client_name: str | None
    pool_id: int
    total: int
    in_redis: int | None
    issued: int | None
    ledger: int
    backlog: int | None
    quarantined: int
    dead_letters: int
    rate: PoolRate = UNKNOWN_RATE

    def to_json(self) -> dict[str, Any]:
        """Return the stock as the API and the command line show it."""
        shown = asdict(self) | {"client_id": str(self.client_id)}
        del shown["pool_id"], shown["rate"]
        return shown | self.rate.to_json()


# Released seqs stay quarantined: they are spent, and their codes have new seqs. A seq counts in one place: the ledger
# before the quarantine, the quarantine before the dead letters.
_POOLS: Final = f"""
SELECT p.id, p.client_id, (SELECT name FROM clients WHERE clients.id = p.client_id) AS client_name,
  p.total, p.final_issued, {RATE_COLUMNS},
  (SELECT count(*) FROM ledger r WHERE r.pool_id = p.id) AS ledger,
  (SELECT count(*) FROM quarantined s WHERE s.pool_id = p.id AND NOT EXISTS
    (SELECT FROM ledger r WHERE r.pool_id = s.pool_id AND r.seq = s.seq)) AS quarantined,
  (SELECT count(DISTINCT d.seq) FROM dead_letters d WHERE d.pool_id = p.id AND d.resolved_at IS NULL
    AND NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = d.pool_id AND r.seq = d.seq)
    AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = d.pool_id AND s.seq = d.seq)) AS dead_letters
FROM pools p {RATE_JOIN}
WHERE p.batch_id = $1 AND ($2::uuid IS NULL OR p.client_id = $2) AND p.id > $3 ORDER BY p.id LIMIT $4"""


async def batch_stock(stores: Stores, batch_id: UUID, *, client_id: UUID | None = None) -> list[Stock]:
    """Return the stock of each client of a batch, or of `client_id` alone. Raises PostgresUnavailableError only."""
    return [pool async for chunk in batch_stock_chunks(stores, batch_id, client_id=client_id) for pool in chunk]


async def batch_stock_chunks(
    stores: Stores, batch_id: UUID, *, client_id: UUID | None = None
) -> AsyncGenerator[list[Stock]]:
    """Yield the stock of each client of a batch, or of `client_id` alone, in chunks. Raises PostgresUnavailableError
    only.

    Costs a count of the batch's redemptions in the ledger's primary key.
    """
    last = 0
    while True:
        async with unavailable_translated():
            rows = await stores.postgres.fetch(_POOLS, batch_id, client_id, last, CHUNK_SIZE)
        if rows:
            yield await _stocks(stores, batch_id, rows)
        if len(rows) < CHUNK_SIZE:
            return
        last = rows[-1]["id"]


async def _stocks(stores: Stores, batch_id: UUID, rows: Sequence[Any]) -> list[Stock]:
    clients = [UUID(bytes=row["client_id"].bytes) for row in rows]
    known: Sequence[PoolCounters | None]
    try:
        found = await read_pool_counters(stores.redis, [(batch_id, client) for client in clients])
        known = [counters or NOT_IN_REDIS for counters in found]
    except RedisUnavailableError:
        known = [None] * len(clients)
    return [_stock(row, client, counters) for row, client, counters in zip(rows, clients, known, strict=True)]


def _stock(row: Any, client_id: UUID, counters: PoolCounters | None) -> Stock:
    accounted = row["ledger"] + row["quarantined"] + row["dead_letters"]
    issued, in_redis = (None, None) if counters is None else (counters.issued, counters.in_redis)
    if row["final_issued"] is not None:
        issued = row["final_issued"]
    return Stock(
        client_id=client_id,
        client_name=row["client_name"],
        pool_id=row["id"],
        total=row["total"],
        in_redis=in_redis,
        issued=issued,
        ledger=row["ledger"],
        backlog=None if issued is None else max(0, issued - accounted),
        quarantined=row["quarantined"],
        dead_letters=row["dead_letters"],
        rate=PoolRate.of(row),
    )
