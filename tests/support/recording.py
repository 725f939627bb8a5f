"""Recording the stream of a shop in the ledger, as the worker does, but step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

from issuer.contract.events import Redemption, RedemptionColumns, decode_event
from issuer.contract.keys import partition_keys, partition_of, partition_tag
from issuer.contract.scripts import Script
from issuer.ledger.record import RecordResult, record_redemptions
from issuer.storage.redis_link import Redis, RedisUnavailableError, ScriptCall
from issuer.storage.stores import Stores
from tests.support.issuing import LedgerShop, open_shop, plain_client
from tests.support.redeeming import ScriptAnswer


@asynccontextmanager
async def shop_of(stores: Stores, codes: Sequence[int] = (100,)) -> AsyncIterator[LedgerShop]:
    """Open a batch with one pool for each number, which is how many codes it has."""
    with plain_client(stores.settings.redis_url.get_secret_value()) as client:
        yield await open_shop(stores, client, codes)


async def record(shop: LedgerShop, *, ack: bool = True) -> None:
    """Write the stream to the ledger; without `ack` as a worker that is killed before it removes the events."""
    async with shop.stores.postgres.acquire() as connection, connection.transaction():
        recorded = await record_redemptions(connection, shop.columns())
    assert not recorded.rejected
    if ack:
        ack_all(shop)


async def drain(stores: Stores) -> None:
    """Write all streams to the ledger and leave them as they are."""
    for number in range(stores.redis.partitions):
        entries: Any = await stores.redis.client.xrange(partition_keys(number).stream)
        for _, fields in entries:
            async with stores.postgres.acquire() as connection, connection.transaction():
                await record_redemptions(connection, decode_event(fields).redemptions)


async def reject_all(shop: LedgerShop) -> None:
    """Move everything in the stream to the dead letters."""
    entries: Any = shop.client.xrange(shop.keys.stream)
    for stream_id, fields in entries:
        raw = [part for pair in fields.items() for part in pair]
        for redemption in decode_event(fields).redemptions:
            await shop.stores.postgres.execute(
                "INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw, serial)"
                " VALUES ($1, $2, $3, $4, $5, 'a test', $6, $7)",
                shop.number, stream_id.decode(), redemption.epoch, redemption.pool_id, redemption.seq, raw,
                redemption.serial,
            )  # fmt: skip
    ack_all(shop)


def ack_all(shop: LedgerShop) -> None:
    shop.partition.epoch = shop.stores.redis.epoch
    shop.partition.ack([(stream_id, event.count) for stream_id, event in shop.partition.events()])


def words(answers: Sequence[ScriptAnswer]) -> list[str]:
    return [answer.word for answer in answers]


def batch_hash(shop: LedgerShop, batch_id: UUID | None = None) -> dict[str, str]:
    """Return the hash of a batch in Redis: the shop's, or another one."""
    wanted = batch_id or shop.batch
    number = partition_of(wanted, shop.stores.redis.partitions)
    name = shop.partition.batch(wanted).batch.replace(partition_tag(shop.number), partition_tag(number))
    found: Any = shop.client.hgetall(name)
    return {field.decode(): value.decode() for field, value in found.items()}


@dataclass
class FailingRedis:
    """A Redis that is unavailable after `calls` script calls; `lost`: one more is executed, and its reply is lost."""

    redis: Redis
    calls: int
    lost: bool = False

    @property
    def client(self) -> Any:
        return self.redis.client

    @property
    def partitions(self) -> int:
        return self.redis.partitions

    @property
    def epoch(self) -> int:
        return self.redis.epoch

    async def host_ms(self) -> int:
        return await self.redis.host_ms()

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[str | bytes | int]) -> Any:
        return (await self.run_all(script, [(keys, args)]))[0]

    async def run_all(self, script: Script, calls: Sequence[ScriptCall]) -> Any:
        self.calls -= 1
        if self.calls < 0:
            if self.lost and self.calls == -1:
                await self.redis.run_all(script, calls)
            raise RedisUnavailableError("the test made Redis unavailable")
        return await self.redis.run_all(script, calls)


def failing_after(stores: Stores, calls: int, *, lost: bool = False) -> Stores:
    """Return the stores with a Redis that becomes unavailable."""
    return replace(stores, redis=cast("Redis", FailingRedis(stores.redis, calls, lost)))


async def record_in_ledger(shop: LedgerShop, redemptions: list[Redemption] | RedemptionColumns) -> RecordResult:
    """Write these redemptions into the ledger in one transaction; the stream keeps its events."""
    async with shop.stores.postgres.acquire() as connection, connection.transaction():
        return await record_redemptions(connection, redemptions)
