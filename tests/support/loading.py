"""Looks at loads from outside: what Postgres and Redis hold of a batch, and that the two agree."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from issuer.batches.batch import NewBatch
from issuer.batches.store import Batch, create_batch
from issuer.contract.keys import batch_keys, partition_of
from issuer.loading.preload import preload_file
from issuer.loading.report import PreloadReport
from issuer.storage.stores import Stores

A = UUID("aaaaaaaa-0000-4000-8000-000000000001")
B = UUID("bbbbbbbb-0000-4000-8000-000000000002")


def csv_of(rows: Iterable[tuple[UUID, str]]) -> bytes:
    return b"client_id,code\n" + b"".join(b"%s,%s\n" % (str(client).encode(), code.encode()) for client, code in rows)


def codes(prefix: str, count: int, client: UUID = A, first: int = 1) -> list[tuple[UUID, str]]:
    return [(client, f"{prefix}{number:07d}") for number in range(first, first + count)]


async def new_batch(stores: Stores, name: str = "Summer Sale") -> Batch:
    return await create_batch(stores, NewBatch(name), actor="test")


async def load(stores: Stores, batch: Batch, rows: Iterable[tuple[UUID, str]]) -> PreloadReport:
    return await preload_file(stores, io.BytesIO(csv_of(rows)), batch_id=batch.id)


@dataclass(frozen=True, slots=True)
class PoolInRedis:
    """Meta and list of a pool, as they lie there."""

    id: int
    issued: int
    loaded: int
    total: int
    codes: list[str]


async def pool_in_redis(stores: Stores, batch_id: UUID, client_id: UUID) -> PoolInRedis | None:
    keys = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id)
    meta: Any = await stores.redis.client.hgetall(keys.pool(client_id))
    if not meta:
        return None
    listed: Any = await stores.redis.client.lrange(keys.codes(client_id), 0, -1)
    return PoolInRedis(
        int(meta[b"id"]), int(meta[b"issued"]), int(meta[b"loaded"]), int(meta[b"total"]),
        [code.decode() for code in listed],
    )  # fmt: skip


async def codes_in_postgres(stores: Stores, batch_id: UUID, client_id: UUID) -> list[str]:
    """In the order of their seqs, which have no gaps, agree with the pool's total and hold no code twice."""
    rows = await stores.postgres.fetch(
        "SELECT c.seq, c.code, c.batch_id, p.total FROM codes c JOIN pools p ON p.id = c.pool_id"
        " WHERE p.batch_id = $1 AND p.client_id = $2 ORDER BY c.seq",
        batch_id,
        client_id,
    )
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["total"] == len(rows) and row["batch_id"] == batch_id for row in rows)
    found = [row["code"] for row in rows]
    assert len(set(found)) == len(found)
    return found


async def check_agreement(stores: Stores, batch_id: UUID, client_id: UUID) -> PoolInRedis:
    """Redis holds exactly the codes with the seqs from `issued + 1` to `loaded`, in their order."""
    everything = await codes_in_postgres(stores, batch_id, client_id)
    pool = await pool_in_redis(stores, batch_id, client_id)
    assert pool is not None
    assert pool.total == len(everything)
    assert pool.codes == everything[pool.issued : pool.loaded]
    return pool


async def issue(stores: Stores, batch_id: UUID, client_id: UUID, count: int) -> None:
    """Takes codes from the head as the redeem script does, without its bookkeeping."""
    keys = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id)
    pipeline = stores.redis.client.pipeline(transaction=True)
    pipeline.lpop(keys.codes(client_id), count)
    pipeline.hincrby(keys.pool(client_id), "issued", count)
    popped, _ = await pipeline.execute()
    assert len(popped) == count
