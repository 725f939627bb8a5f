"""A batch with pools, in Postgres and in Redis, and redemptions of it: what tests of the ledger and the worker need.

Speaks to the scripts directly, as `tests.support.redeeming` does, so that neither engine nor loader is in between.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import redis

from issuer.contract.events import RedemptionColumns, decode_columns
from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.storage.stores import Stores
from tests.support.redeeming import Partition, ScriptAnswer, ScriptRequest, connect

_names = itertools.count(1)


class LedgerShop:
    """One batch with some pools. `redeem` hands codes out; the worker has to bring them into the ledger."""

    def __init__(self, stores: Stores, client: redis.Redis, batch: UUID, pools: dict[UUID, int]) -> None:
        self.stores = stores
        self.client = client
        self.batch = batch
        self.pools = pools
        self.number = partition_of(batch, stores.redis.partitions)
        self.partition = Partition(client, self.number)
        self.keys = partition_keys(self.number)

    @property
    def pool_id(self) -> int:
        """Of the first pool."""
        return next(iter(self.pools.values()))

    def redeem(
        self, count: int = 1, *, client_id: UUID | None = None, key: str | None = None, customer: UUID | None = None
    ) -> list[ScriptAnswer]:
        """One script call with `count` requests, each of a customer of its own unless one is named."""
        self.partition.epoch = self.stores.redis.epoch
        wanted = client_id or next(iter(self.pools))
        requests = [ScriptRequest(self.batch, wanted, customer or uuid.uuid4(), key, 7) for _ in range(count)]
        return list(self.partition.redeem_now(*requests).answers)

    def redeem_in_calls(self, calls: int, count: int) -> int:
        """Many calls; returns the number of codes handed out."""
        return sum(answer.word == "GRANTED" for _ in range(calls) for answer in self.redeem(count))

    def backlog(self) -> int:
        """Redemptions that the partition's counter has as not in the ledger."""
        value = self.client.hget(self.keys.state, "backlog")
        assert isinstance(value, bytes)
        return int(value)

    def entries(self) -> int:
        length: Any = self.client.xlen(self.keys.stream)
        return int(length)

    def columns(self) -> RedemptionColumns:
        """What lies in the stream, as the ledger takes it."""
        columns = RedemptionColumns()
        entries: Any = self.client.xrange(self.keys.stream)
        for _, fields in entries:
            decode_columns(fields, columns)
        return columns

    async def ledger_count(self) -> int:
        count = await self.stores.postgres.fetchval(
            "SELECT count(*) FROM redemptions WHERE pool_id = ANY($1)", list(self.pools.values())
        )
        return int(count)


@contextmanager
def plain_client(url: str) -> Iterator[redis.Redis]:
    parts = urlsplit(url)
    client = connect(host=parts.hostname, port=parts.port, db=int(parts.path.strip("/") or 0))
    try:
        yield client
    finally:
        client.close()


async def open_shop(stores: Stores, client: redis.Redis, codes: Sequence[int] = (100,)) -> LedgerShop:
    """A batch with as many pools as there are numbers, each with so many codes, all loaded."""
    batch = uuid.uuid4()
    number = partition_of(batch, stores.redis.partitions)
    partition = Partition(client, number)
    partition.epoch = stores.redis.epoch
    name = f"shop {next(_names)}"
    await stores.postgres.execute("INSERT INTO batches (id, name, redis_revision) VALUES ($1, $2, 1)", batch, name)
    partition.put_batch(batch)
    pools: dict[UUID, int] = {}
    for total in codes:
        client_id = uuid.uuid4()
        pool_id = await stores.postgres.fetchval(
            "INSERT INTO pools (batch_id, client_id, total, opened, loaded) VALUES ($1, $2, $3, true, $3) RETURNING id",
            batch, client_id, total,
        )  # fmt: skip
        texts = [f"{pool_id}-{seq}-{batch.hex[:6]}" for seq in range(1, total + 1)]
        await stores.postgres.execute(
            "INSERT INTO codes (pool_id, seq, batch_id, code)"
            " SELECT $1, seq, $2, code FROM unnest($3::text[]) WITH ORDINALITY AS c(code, seq)",
            pool_id, batch, texts,
        )  # fmt: skip
        partition.open_pool(batch, client_id, pool_id, total=total)
        for at in range(0, total, 2000):
            partition.load(batch, client_id, at + 1, texts[at : at + 2000], total=total)
        pools[client_id] = pool_id
    return LedgerShop(stores, client, batch, pools)


def issued(shop: LedgerShop, client_id: UUID) -> int:
    """The seq of the last code that the pool handed out."""
    value = shop.client.hget(batch_keys(shop.number, shop.batch).pool(client_id), "issued")
    assert isinstance(value, bytes)
    return int(value)
