"""Batches: changes take effect in Redis at once; visibility by client; the end of a batch."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest

from issuer.access.audit import list_entries
from issuer.batches.batch import NewBatch
from issuer.batches.named import find_named_batch
from issuer.batches.rules import parse_rules
from issuer.batches.store import (
    Batch,
    BatchChanges,
    BatchEndedError,
    BatchNotFoundError,
    BatchSharedError,
    InvalidBatchError,
    change_batch,
    create_batch,
    find_batch,
    find_or_create_batch,
    list_batches,
    open_batches,
    push_batch,
)
from issuer.batches.tombstones import free_ended_batches
from issuer.clients.registry import create_client
from issuer.ids import Identity
from issuer.paging import InvalidCursorError
from issuer.pools.stock import Stock, batch_stock
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.chunks import gathered
from tests.support.recording import batch_hash, failing_after, record, reject_all, shop_of, words

SOON = datetime(2100, 1, 1, tzinfo=UTC)


async def change(stores: Stores, batch_id: UUID, client_id: UUID | None = None, **values: Any) -> Batch:
    return await change_batch(stores, batch_id, BatchChanges(**values), client_id=client_id, actor="test")


async def make(stores: Stores, name: str = "drop", client_id: UUID | None = None, **values: Any) -> Batch:
    return await create_batch(stores, NewBatch(name, **values), client_id=client_id, actor="test")


async def test_a_new_batch_is_stored_in_postgres_and_redis(stores: Stores) -> None:
    rules = parse_rules({"maxpercustomer": 2, "timelimit": 30})
    starts_at = datetime(2026, 6, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    batch = await make(stores, "Summer Sale ☀", rules=rules, starts_at=starts_at, ends_at=SOON)
    assert batch == await find_batch(stores.postgres, batch.id)
    assert (batch.starts_at, batch.ends_at, batch.rules) == (datetime(2026, 6, 1, tzinfo=UTC), SOON, rules)
    assert (batch.in_redis, batch.expired, batch.paused) == (True, False, False)
    async with shop_of(stores) as shop:
        token = await stores.postgres.fetchval("SELECT token FROM batches WHERE id = $1", batch.id)
        assert batch_hash(shop, batch.id) == {
            "revision": "1",
            "token": token.hex,
            "state": "open",
            "paused": "0",
            "starts_at_ms": "1780272000000",
            "ends_at_ms": "4102444800000",
            "limits": "2:2592000000",
            "rebuilding": "",
        }


@pytest.mark.parametrize(
    "values",
    [
        {"name": ""},
        {"name": " \u2003"},
        {"name": "x" * 256},
        {"name": "a\x00b"},
        {"name": "a\nb"},
        {"name": "a\x9bb"},
        {"name": "\ud800"},
        {"starts_at": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"ends_at": datetime(1969, 12, 31, tzinfo=UTC)},
        {"starts_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))},
        {"starts_at": SOON, "ends_at": SOON},
    ],
)
async def test_invalid_values_of_a_batch_are_refused(stores: Stores, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidBatchError):
        await make(stores, **values)
    batch = await make(stores)
    with pytest.raises(InvalidBatchError):
        await change(stores, batch.id, **values)
    assert await find_batch(stores.postgres, batch.id) == batch
    assert len(await gathered(open_batches(stores.postgres))) == 1


async def test_pause_and_times_take_effect_from_the_next_request_on(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        steps: list[tuple[dict[str, Any], str]] = [
            ({"paused": True}, "PAUSED"),
            ({"paused": False}, "GRANTED"),
            ({"starts_at": SOON}, "NOT_STARTED"),
            ({"starts_at": None}, "GRANTED"),
            ({"ends_at": datetime.now(UTC)}, "ENDED"),
            ({"ends_at": None}, "GRANTED"),
            ({"expired": True}, "ENDED"),
        ]
        for values, word in steps:
            await change(stores, shop.batch, **values)
            assert words(shop.redeem()) == [word]


async def test_an_end_is_final_but_a_change_without_effect_is_accepted(stores: Stores) -> None:
    batch = await make(stores, rules=parse_rules({"maxpercustomer": 1}))
    ended = await change(stores, batch.id, expired=True)
    assert ended.expired
    changes: list[dict[str, Any]] = [
        {"name": "x"},
        {"paused": True},
        {"ends_at": SOON},
        {"rules": parse_rules({})},
        {"expired": False},
    ]
    for values in changes:
        with pytest.raises(BatchEndedError):
            await change(stores, batch.id, **values)
    same: dict[str, Any] = {"name": batch.name, "paused": False, "rules": batch.rules, "expired": True}
    assert await change(stores, batch.id, **same) == ended


async def test_a_rename_needs_no_revision_and_a_change_without_effect_no_audit_entry(stores: Stores) -> None:
    batch = await make(stores)
    renamed = await change(failing_after(stores, 0), batch.id, name="new name")
    assert (renamed.name, renamed.revision) == ("new name", 1)
    await change(failing_after(stores, 0), batch.id, name="new name", paused=False, ends_at=None)
    entries = (await list_entries(stores.postgres)).items
    assert [entry.action for entry in entries] == ["batch.change", "batch.create"]
    assert entries[0].detail == {"name": {"from": "drop", "to": "new name"}}
    assert (entries[0].actor, entries[0].subject) == ("test", f"batch:{batch.id}")


async def test_a_change_that_did_not_reach_redis_is_pushed_later(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        with pytest.raises(RedisUnavailableError):
            await change(failing_after(stores, 0), shop.batch, expired=True)
        assert words(shop.redeem()) == ["GRANTED"]
        behind = await find_batch(stores.postgres, shop.batch)
        assert (behind.expired, behind.in_redis) == (True, False)
        await push_batch(stores, shop.batch)
        assert words(shop.redeem()) == ["ENDED"]
        # Redis has applied this one, but the answer was lost.
        batch = await make(failing_after(stores, 0, lost=True), "lost")
        assert not batch.in_redis
        await push_batch(stores, batch.id)
        assert (await find_batch(stores.postgres, batch.id)).in_redis


async def test_a_client_sees_and_changes_only_its_own_batches(stores: Stores) -> None:
    async with shop_of(stores, (5, 5)) as shop, shop_of(stores, (5,)) as own:
        mine, other = shop.pools
        (owner,) = own.pools
        assert [batch.id for batch in await gathered(open_batches(stores.postgres, client_id=mine))] == [shop.batch]
        assert [batch.id for batch in (await list_batches(stores.postgres, client_id=owner)).items] == [own.batch]
        assert (await find_batch(stores.postgres, shop.batch, client_id=other)).id == shop.batch
        with pytest.raises(BatchNotFoundError):
            await find_batch(stores.postgres, shop.batch, client_id=owner)
        for stranger in (owner, uuid4()):
            with pytest.raises(BatchNotFoundError):
                await change(stores, shop.batch, stranger, paused=True)
        with pytest.raises(BatchSharedError):
            await change(stores, shop.batch, mine, paused=True)
        assert (await change(stores, own.batch, owner, paused=True)).paused
        assert [stock.client_id for stock in await batch_stock(stores, shop.batch, client_id=mine)] == [mine]
        assert [stock.client_id for stock in await batch_stock(stores, shop.batch)] == [mine, other]
        for unknown in (uuid4(), UUID(int=0)):
            with pytest.raises(BatchNotFoundError):
                await change(stores, unknown, paused=True)


async def test_a_batch_created_for_a_client_is_visible_to_it(stores: Stores) -> None:
    client = uuid4()
    batch = await make(stores, client_id=client)
    assert await find_batch(stores.postgres, batch.id, client_id=client) == batch
    (stock,) = await batch_stock(stores, batch.id, client_id=client)
    assert (stock.total, stock.in_redis, stock.issued, stock.backlog) == (0, 0, 0, 0)


async def test_find_or_create_returns_the_newest_open_batch_of_a_name(stores: Stores) -> None:
    await make(stores, "same", ends_at=datetime(2020, 1, 1, tzinfo=UTC))
    made = await asyncio.gather(*[find_or_create_batch(stores, NewBatch("same"), actor="test") for _ in range(4)])
    assert len({batch.id for batch, _ in made}) == 1
    assert sorted(new for _, new in made) == [False, False, False, True]
    second = made[0][0]
    assert await find_named_batch(stores.postgres, "same") == second


async def test_pages_contain_every_batch_once(stores: Stores) -> None:
    made = [(await make(stores, f"batch {number}")).id for number in range(7)]
    await change(stores, made[3], expired=True)
    seen: list[UUID] = []
    cursor = None
    while True:
        page = await list_batches(stores.postgres, limit=3, cursor=cursor)
        seen += [batch.id for batch in page.items]
        # A batch that is added in between does not shift the pages.
        await make(stores, "later")
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]
    assert made[3] not in [batch.id for batch in await gathered(open_batches(stores.postgres))]


@pytest.mark.parametrize("cursor", ["x", "", "é", "W10", "A" * 600, "WyJhdWRpdCIsMV0", "WyJiYXRjaGVzIiwxLDJd"])
async def test_a_cursor_of_another_list_is_refused(stores: Stores, cursor: str) -> None:
    if cursor:
        with pytest.raises(InvalidCursorError):
            await list_batches(stores.postgres, cursor=cursor)
    else:
        assert (await list_batches(stores.postgres, cursor=cursor)).items == []


async def test_stock_accounts_for_every_seq(stores: Stores) -> None:
    async with shop_of(stores, (50, 10)) as shop:
        first, second = shop.pools
        shop.redeem(7)
        await record(shop)
        shop.redeem(3)
        await reject_all(shop)
        shop.redeem(5)
        shop.redeem(2, client_id=second)
        await stores.postgres.execute(
            "INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 11, 1), ($1, 7, 1)", shop.pool_id
        )
        await create_client(stores, Identity(first.bytes, None), name="Band 42", actor="test")
        expected = Stock(
            first,
            "Band 42",
            shop.pools[first],
            total=50,
            in_redis=35,
            issued=15,
            ledger=7,
            backlog=4,
            quarantined=1,
            dead_letters=3,
        )
        assert await batch_stock(stores, shop.batch) == [
            expected,
            Stock(second, None, shop.pools[second], 10, 8, 2, 0, 2, 0, 0),
        ]


async def test_an_ended_batch_is_freed_in_redis_but_replays_still_work(stores: Stores) -> None:
    async with shop_of(stores, (50, 10)) as shop:
        first, second = shop.pools
        customer = uuid4()
        await change(stores, shop.batch, rules=parse_rules({"maxpercustomer": 9}))
        shop.redeem(3)
        (kept,) = shop.redeem(customer=customer, key="k")
        await change(stores, shop.batch, expired=True)

        assert await free_ended_batches(stores) == 0  # its redemptions are not in the ledger yet
        assert shop.client.llen(shop.partition.batch(shop.batch).codes(first)) == 46
        await record(shop)
        assert await free_ended_batches(stores) == 1
        assert await free_ended_batches(stores) == 0
        names = shop.partition.batch(shop.batch)
        assert not shop.client.exists(
            names.codes(first), names.codes(second), shop.partition.window(shop.batch, customer)
        )

        (again,) = shop.redeem(customer=customer, key="k")
        assert (again.word, again.detail) == ("REPLAYED", kept.detail)
        (stranger,) = shop.redeem(customer=customer, key="k", client_id=second)
        assert stranger.word == "KEY_REUSED"
        assert words(shop.redeem()) == ["ENDED"]
        stock = await batch_stock(stores, shop.batch)
        assert [(pool.issued, pool.ledger, pool.backlog, pool.in_redis) for pool in stock] == [
            (4, 4, 0, 0),
            (0, 0, 0, 0),
        ]

        await stores.postgres.execute("UPDATE batches SET drained_at = drained_at - interval '26 hours'")
        assert await free_ended_batches(stores) == 1
        assert not shop.client.exists(names.pool(first), names.pool(second))
        assert batch_hash(shop)["state"] == "ended"
        assert (await find_batch(stores.postgres, shop.batch)).freed_at is not None
        assert (await batch_stock(stores, shop.batch))[0].issued == 4


async def test_freeing_leaves_other_batches_unchanged_and_is_repeatable(stores: Stores) -> None:
    async with shop_of(stores) as shop, shop_of(stores) as neighbour:
        customer = uuid4()
        for one in (shop, neighbour):
            await change(stores, one.batch, rules=parse_rules({"maxpercustomer": 2}))
            one.redeem(customer=customer)
            await record(one)
        await change(stores, shop.batch, expired=True)
        with pytest.raises(RedisUnavailableError):
            await free_ended_batches(failing_after(stores, 0, lost=True))
        assert await free_ended_batches(stores) == 1
        assert words(neighbour.redeem(2, customer=customer)) == ["GRANTED", "LIMIT_REACHED"]
        assert not shop.client.exists(shop.partition.window(shop.batch, customer))


async def test_an_undecodable_entry_postpones_draining(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        await change(stores, shop.batch, expired=True)
        poison = shop.client.xadd(shop.keys.stream, {"v": "99"})
        assert await free_ended_batches(stores) == 0
        shop.client.xdel(shop.keys.stream, poison)
        assert await free_ended_batches(stores) == 1
