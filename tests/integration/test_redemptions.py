"""Reading the ledger: lists, codes, and the erasure of a customer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from issuer.access.audit import list_entries
from issuer.batches.batch import NewBatch
from issuer.batches.rules import parse_rules
from issuer.batches.store import BatchChanges, BatchNotFoundError, change_batch, create_batch
from issuer.ledger.erasure import BacklogNotEmptyError, Erasure, erase_customer
from issuer.ledger.redemptions import (
    CodeState,
    LedgerEntry,
    places_of_code,
    redemptions_of_batch,
    redemptions_of_customer,
)
from issuer.paging import InvalidCursorError, Page
from issuer.pools.stock import batch_stock
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.issuing import LedgerShop
from tests.support.recording import record, reject_all, shop_of, words
from tests.support.servers import RedisServer


async def all_pages(read: Any) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        page: Page[Any] = await read(cursor)
        assert len(page.items) <= 3
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_redemptions_of_a_batch_are_listed_in_pool_order(stores: Stores) -> None:
    async with shop_of(stores, (20, 20)) as shop, shop_of(stores) as neighbour:
        first, second = shop.pools
        for _ in range(4):
            shop.redeem(2, client_id=second)
            shop.redeem(1, client_id=first)
        neighbour.redeem(3)
        await record(shop)
        await record(neighbour)
        found = await all_pages(
            lambda cursor: redemptions_of_batch(stores.postgres, shop.batch, limit=3, cursor=cursor)
        )
        assert [(entry.client_id, entry.seq) for entry in found] == [
            *((first, seq) for seq in range(1, 5)),
            *((second, seq) for seq in range(1, 9)),
        ]
        mine = await redemptions_of_batch(stores.postgres, shop.batch, client_id=first)
        assert {entry.client_id for entry in mine.items} == {first}
        for batch_id, client_id in ((shop.batch, uuid4()), (uuid4(), None), (neighbour.batch, first)):
            with pytest.raises(BatchNotFoundError):
                await redemptions_of_batch(stores.postgres, batch_id, client_id=client_id)
        with pytest.raises(InvalidCursorError):
            await redemptions_of_batch(stores.postgres, shop.batch, cursor="nonsense")


async def test_redemptions_of_a_customer_are_listed_newest_first(stores: Stores) -> None:
    async with shop_of(stores) as shop, shop_of(stores) as other:
        customer = uuid4()
        for one in (shop, other, shop):
            one.redeem(3, customer=customer)
            one.redeem(2)
            await record(one)
        found: list[LedgerEntry] = await all_pages(
            lambda cursor: redemptions_of_customer(stores.postgres, customer, limit=3, cursor=cursor)
        )
        assert len(found) == len({(entry.pool_id, entry.seq) for entry in found}) == 9
        assert {entry.customer_id for entry in found} == {customer}
        assert [entry.redeemed_at for entry in found] == sorted((e.redeemed_at for e in found), reverse=True)
        (owner,) = other.pools
        mine = await redemptions_of_customer(stores.postgres, customer, client_id=owner)
        assert {entry.batch_id for entry in mine.items} == {other.batch}
        assert (await redemptions_of_customer(stores.postgres, uuid4())).items == []


async def state_of(shop: LedgerShop, code: str, **values: Any) -> CodeState:
    (place,) = (await places_of_code(shop.stores, code, **values)).items
    return place.state


async def test_a_code_is_looked_up_with_its_state(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        (client,) = shop.pools
        customer = uuid4()
        (first,) = shop.redeem(customer=customer)
        assert await state_of(shop, first.detail) is CodeState.BACKLOG
        await record(shop)
        (place,) = (await places_of_code(stores, first.detail)).items
        assert (place.batch_id, place.client_id, place.seq) == (shop.batch, client, 1)
        assert (place.state, place.customer_id) == (CodeState.REDEEMED, customer)
        assert place.redeemed_at is not None

        (second,) = shop.redeem()
        await reject_all(shop)
        assert await state_of(shop, second.detail) is CodeState.DEAD_LETTER
        codes = {row["seq"]: row["code"] for row in await stores.postgres.fetch("SELECT seq, code FROM codes")}
        await stores.postgres.execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 3, 1)", shop.pool_id)
        assert await state_of(shop, codes[3]) is CodeState.QUARANTINED
        assert await state_of(shop, codes[4]) is CodeState.AVAILABLE

        assert (await places_of_code(stores, codes[4], client_id=uuid4())).items == []
        for unknown in ("no such code", "", "a\0b", "\ud800", "x" * 10_000):
            assert (await places_of_code(stores, unknown)).items == []


async def test_a_code_of_several_batches_is_found_in_each(stores: Stores) -> None:
    async with shop_of(stores) as one, shop_of(stores) as two, shop_of(stores) as three:
        await stores.postgres.execute("UPDATE codes SET code = 'SAME' WHERE seq = 1")
        found = await all_pages(lambda cursor: places_of_code(stores, "SAME", limit=1, cursor=cursor))
        assert {place.batch_id for place in found} == {one.batch, two.batch, three.batch}
        assert len(found) == 3


async def test_an_erased_customer_is_removed_but_its_redemptions_are_counted(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        await change_batch(stores, shop.batch, BatchChanges(rules=parse_rules({"maxpercustomer": 2})), actor="test")
        customer, other = uuid4(), uuid4()
        shop.redeem(3, customer=customer, key="k")
        shop.redeem(1, customer=customer)
        shop.redeem(1, customer=other)
        await record(shop)
        await stores.postgres.execute(
            "INSERT INTO anomalies (kind, detail) VALUES ('x', jsonb_build_object('customer_id', $1::text))",
            str(customer),
        )
        assert await erase_customer(stores, customer, actor="cli:ann") == Erasure(2, 0, 1, 1, 0)
        assert await erase_customer(stores, customer, actor="cli:ann") == Erasure(0, 0, 0, 0, 0)
        assert await shop.ledger_count() == 3
        assert (await redemptions_of_customer(stores.postgres, customer)).items == []
        assert len((await redemptions_of_customer(stores.postgres, other)).items) == 1
        for table in ("redemptions", "anomalies", "audit_log"):
            rows = await stores.postgres.fetch(f"SELECT {table}::text AS row FROM {table}")
            assert not any(str(customer) in row["row"] for row in rows)
        assert not [name for name in shop.client.scan_iter(count=1000) if customer.bytes in name]
        entry = (await list_entries(stores.postgres)).items[0]
        assert (entry.actor, entry.action) == ("cli:ann", "customer.erase")


async def test_erasure_waits_for_the_backlog_or_changes_nothing(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        customer = uuid4()
        shop.redeem(1, customer=customer)
        await record(shop, ack=False)
        with pytest.raises(BacklogNotEmptyError):
            await erase_customer(stores, customer, actor="test", wait_s=0)
        assert len((await redemptions_of_customer(stores.postgres, customer)).items) == 1
        task = asyncio.create_task(erase_customer(stores, customer, actor="test"))
        shop.redeem(1)  # another customer's does not matter
        await record(shop)
        assert (await task).redemptions == 1
        # A late delivery of the same event is no contradiction and does not restore the id.
        assert words(shop.redeem(1)) == ["GRANTED"]
        await record(shop)


async def test_dead_letters_of_an_erased_customer_are_reported(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        customer = uuid4()
        shop.redeem(2, customer=customer)
        await reject_all(shop)
        assert (await erase_customer(stores, customer, actor="test")).dead_letters == 2


async def test_without_redis_its_figures_are_unknown(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        own = settings.model_copy(update={"redis_url": SecretStr(server.url())})
        async with open_stores(own) as stores, shop_of(stores) as shop:
            (redeemed,) = shop.redeem()
            await record(shop)
            (waiting,) = shop.redeem()
            server.kill9()
            assert await state_of(shop, redeemed.detail) is CodeState.REDEEMED
            assert await state_of(shop, waiting.detail) is CodeState.UNKNOWN
            (stock,) = await batch_stock(stores, shop.batch)
            assert (stock.total, stock.ledger, stock.quarantined) == (100, 1, 0)
            assert (stock.in_redis, stock.issued, stock.backlog) == (None, None, None)
            with pytest.raises(RedisUnavailableError):
                await erase_customer(stores, uuid4(), actor="test")
            with pytest.raises(RedisUnavailableError):
                await change_batch(stores, shop.batch, BatchChanges(paused=True), actor="test")
            batch = await create_batch(stores, NewBatch("made without Redis"), actor="test")
            assert not batch.in_redis
