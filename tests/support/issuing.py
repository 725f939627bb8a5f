"""A batch with pools, in Postgres and in Redis, and redemptions of it, for tests of the ledger and the worker.

It calls the scripts directly (`tests.support.partition`), so that neither engine nor loader is involved.
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
from tests.support.partition import Partition, connect
from tests.support.redeeming import ScriptAnswer, ScriptRequest

_names = itertools.count(1)


class LedgerShop:
    """One batch with some pools. `redeem` issues codes; the worker has to record them in the ledger."""

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
        self,
        count: int = 1,
        *,
        client_id: UUID | None = None,
        key: str | None = None,
        customer: UUID | None = None,
        text: str | None = None,
    ) -> list[ScriptAnswer]:
        """Send one script call with `count` requests, each of another customer unless one is named, by id or text."""
        self.partition.epoch = self.stores.redis.epoch
        wanted = client_id or next(iter(self.pools))
        if text is not None:
            customer = self.stores.identity(text).uuid
        requests = [
            ScriptRequest(self.batch, wanted, customer or uuid.uuid4(), key, 7, customer_text=text)
            for _ in range(count)
        ]
        return list(self.partition.redeem_now(*requests).answers)

    def redeem_in_calls(self, calls: int, count: int) -> int:
        """Send many calls; return the number of codes issued."""
        return sum(answer.word == "GRANTED" for _ in range(calls) for answer in self.redeem(count))

    def backlog(self) -> int:
        """Return the backlog that the partition counts."""
        value = self.client.hget(self.keys.state, "backlog")
        assert isinstance(value, bytes)
        return int(value)

    def entries(self) -> int:
        length: Any = self.client.xlen(self.keys.stream)
        return int(length)

    def columns(self) -> RedemptionColumns:
        """Return the redemptions in the stream, as the ledger takes them."""
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
    """Create a batch with one pool for each number, which is how many codes it has; all are loaded."""
    batch = uuid.uuid4()
    number = partition_of(batch, stores.redis.partitions)
    partition = Partition(client, number)
    partition.epoch = stores.redis.epoch
    name = f"shop {next(_names)}"
    insert = "INSERT INTO batches (id, partition, name, redis_revision) VALUES ($1, $2, $3, 1) RETURNING token"
    token = await stores.postgres.fetchval(insert, batch, number, name)
    partition.put_batch(batch, token=token.hex)
    pools: dict[UUID, int] = {}
    for total in codes:
        client_id = uuid.uuid4()
        pool_id = await stores.postgres.fetchval(
            "INSERT INTO pools (batch_id, client_id, total, opened, loaded) VALUES ($1, $2, $3, true, $3) RETURNING id",
            batch, client_id, total,
        )  # fmt: skip
        texts = [f"{pool_id}-{seq}-{batch.hex[:6]}" for seq in range(1, total + 1)]
        await stores.postgres.execute(
            "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
            " SELECT $1, seq, $2, $4, code FROM unnest($3::text[]) WITH ORDINALITY AS c(code, seq)",
            pool_id, batch, texts, client_id,
        )  # fmt: skip
        partition.open_pool(batch, client_id, pool_id, total=total)
        for at in range(0, total, 2000):
            partition.load(batch, client_id, at + 1, texts[at : at + 2000], total=total)
        pools[client_id] = pool_id
    return LedgerShop(stores, client, batch, pools)


def issued(shop: LedgerShop, client_id: UUID) -> int:
    """Return the seq of the last code that the pool issued."""
    value = shop.client.hget(batch_keys(shop.number, shop.batch).pool(client_id), "issued")
    assert isinstance(value, bytes)
    return int(value)
