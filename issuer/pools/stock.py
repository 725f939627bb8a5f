"""Stock of a batch: per client what there is, what was handed out, and where every seq that was is accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_of
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import Redis, RedisUnavailableError, redis_errors_translated
from issuer.storage.stores import Stores


@dataclass(frozen=True, slots=True)
class Stock:
    """One pool. `in_redis`, `issued` and `backlog` are None when Redis cannot be asked.

    ledger + backlog + quarantined + dead_letters = issued, but for what was redeemed while the figures were read.
    """

    client_id: UUID
    pool_id: int
    total: int
    in_redis: int | None
    issued: int | None
    ledger: int
    backlog: int | None
    quarantined: int
    dead_letters: int

    def to_json(self) -> dict[str, Any]:
        """The stock as API and command line show it."""
        shown = asdict(self) | {"client_id": str(self.client_id)}
        del shown["pool_id"]
        return shown


@dataclass(frozen=True, slots=True)
class PoolMeta:
    """What Redis says of one pool."""

    issued: int
    in_redis: int


# Released seqs stay listed: they were spent, their codes have new ones. A seq is in one place only, the ledger first.
_POOLS: Final = """
SELECT p.id, p.client_id, p.total, p.final_issued,
  (SELECT count(*) FROM ledger r WHERE r.pool_id = p.id) AS ledger,
  (SELECT count(*) FROM quarantined s WHERE s.pool_id = p.id AND NOT EXISTS
    (SELECT FROM ledger r WHERE r.pool_id = s.pool_id AND r.seq = s.seq)) AS quarantined,
  (SELECT count(DISTINCT d.seq) FROM dead_letters d WHERE d.pool_id = p.id AND d.resolved_at IS NULL
    AND NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = d.pool_id AND r.seq = d.seq)
    AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = d.pool_id AND s.seq = d.seq)) AS dead_letters
FROM pools p WHERE p.batch_id = $1 AND ($2::uuid IS NULL OR p.client_id = $2) ORDER BY p.id"""


async def batch_stock(stores: Stores, batch_id: UUID, *, client_id: UUID | None = None) -> list[Stock]:
    """The stock of each client of a batch, or of `client_id` alone. Raises PostgresUnavailableError only.

    Costs a count of the batch's redemptions in the ledger's primary key.
    """
    async with unavailable_translated():
        rows = await stores.postgres.fetch(_POOLS, batch_id, client_id)
    clients = [UUID(bytes=row["client_id"].bytes) for row in rows]
    metas: Sequence[PoolMeta | None]
    try:
        metas = await read_pools(stores.redis, [(batch_id, client) for client in clients])
    except RedisUnavailableError:
        metas = [None] * len(clients)
    return [_stock(row, client, meta) for row, client, meta in zip(rows, clients, metas, strict=True)]


async def read_pools(redis: Redis, pools: Sequence[tuple[UUID, UUID]]) -> list[PoolMeta]:
    """What Redis says of pools (batch, client), in one pipeline. Raises RedisUnavailableError."""
    if not pools:
        return []
    pipeline = redis.client.pipeline(transaction=False)
    for batch_id, client_id in pools:
        keys = batch_keys(partition_of(batch_id, redis.partitions), batch_id)
        pipeline.hget(keys.pool(client_id), "issued")
        pipeline.llen(keys.codes(client_id))
    async with redis_errors_translated():
        replies: list[Any] = await pipeline.execute()
    return [PoolMeta(int(issued or 0), length) for issued, length in zip(replies[::2], replies[1::2], strict=True)]


def _stock(row: Any, client_id: UUID, meta: PoolMeta | None) -> Stock:
    accounted = row["ledger"] + row["quarantined"] + row["dead_letters"]
    issued, in_redis = (None, None) if meta is None else (meta.issued, meta.in_redis)
    if row["final_issued"] is not None:
        issued = row["final_issued"]
    return Stock(
        client_id=client_id,
        pool_id=row["id"],
        total=row["total"],
        in_redis=in_redis,
        issued=issued,
        ledger=row["ledger"],
        backlog=None if issued is None else max(0, issued - accounted),
        quarantined=row["quarantined"],
        dead_letters=row["dead_letters"],
    )
