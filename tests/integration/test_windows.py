"""New limits count earlier redemptions exactly once, wherever these are stored."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from issuer.batches.rules import Rules, parse_rules
from issuer.batches.store import BatchChanges, change_batch, find_batch, push_batch
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.issuing import LedgerShop
from tests.support.recording import batch_hash, failing_after, record, reject_all, shop_of, words


def limit(count: int, seconds: int | None = None) -> Rules:
    if seconds is None:
        return parse_rules({"maxpercustomer": count})
    return parse_rules({"limits": [{"max": count, "seconds": seconds}]})


async def set_rules(stores: Stores, shop: LedgerShop, rules: Rules) -> None:
    await change_batch(stores, shop.batch, BatchChanges(rules=rules), actor="test")


def window(shop: LedgerShop, customer: UUID) -> list[int]:
    """Return the redemption times of a customer that Redis has."""
    value: Any = shop.client.get(shop.partition.window(shop.batch, customer))
    times = value or b""
    return [int(times[at : at + 13]) for at in range(0, len(times), 13)]


async def spread_four(shop: LedgerShop, customer: UUID) -> None:
    """Store four redemptions: in the ledger, in the dead letters, in ledger and stream, in the stream alone."""
    shop.redeem(customer=customer)
    await record(shop)
    shop.redeem(customer=customer)
    await reject_all(shop)
    shop.redeem(customer=customer)
    await record(shop, ack=False)
    shop.redeem(customer=customer)


@pytest.mark.parametrize("seconds", [None, 3600])
async def test_a_new_limit_counts_every_redemption_once_wherever_it_is(stores: Stores, seconds: int | None) -> None:
    async with shop_of(stores) as shop:
        reached, almost, other = uuid4(), uuid4(), uuid4()
        await spread_four(shop, reached)
        await spread_four(shop, almost)
        shop.redeem(5, customer=other)

        await set_rules(stores, shop, limit(4, seconds))
        assert words(shop.redeem(customer=reached)) == ["LIMIT_REACHED"]

        await set_rules(stores, shop, limit(5, seconds))
        assert words(shop.redeem(2, customer=almost)) == ["GRANTED", "LIMIT_REACHED"]
        assert words(shop.redeem(customer=other)) == ["LIMIT_REACHED"]
        assert words(shop.redeem(customer=uuid4())) == ["GRANTED"]


async def test_the_time_in_a_refusal_is_computed_from_the_oldest_redemption(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        customer = uuid4()
        shop.redeem(customer=customer)
        first_ms = shop.columns().at_ms[0]
        await record(shop)
        await set_rules(stores, shop, limit(1, 60))
        (answer,) = shop.redeem(customer=customer)
        assert (answer.word, int(answer.detail)) == ("LIMIT_REACHED", first_ms + 60_000)


async def test_windows_hold_no_more_than_the_rules_need(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        customer, old = uuid4(), uuid4()
        for _ in range(4):
            shop.redeem(customer=customer)
        shop.redeem(customer=old)
        times = shop.columns().at_ms
        await record(shop)
        await stores.postgres.execute(
            "UPDATE redemptions SET redeemed_at = redeemed_at - interval '2 hours' WHERE customer_id = $1", old
        )
        await set_rules(stores, shop, limit(3, 3600))
        assert window(shop, customer) == times[1:4]
        assert 0 < shop.client.pttl(shop.partition.window(shop.batch, customer)) <= 3_600_000
        assert window(shop, old) == []

        await set_rules(stores, shop, limit(2))
        assert window(shop, customer) == times[2:4]
        assert shop.client.pttl(shop.partition.window(shop.batch, customer)) == -1
        assert window(shop, old) == [times[4] - 7_200_000]


async def test_an_erased_customer_and_other_batches_are_left_out(stores: Stores) -> None:
    async with shop_of(stores) as shop, shop_of(stores) as neighbour:
        customer = uuid4()
        neighbour.redeem(3, customer=customer)
        shop.redeem(2, customer=customer)
        await record(shop, ack=False)
        await stores.postgres.execute("UPDATE redemptions SET customer_id = NULL WHERE customer_id = $1", customer)
        await set_rules(stores, shop, limit(1))
        assert window(shop, customer) == []


@pytest.mark.long
async def test_many_customers_are_written_in_chunks(stores: Stores) -> None:
    async with shop_of(stores, (2_500,)) as shop:
        customers = [uuid4() for _ in range(1_200)]
        for customer in customers:
            shop.redeem(2, customer=customer)
        columns = shop.columns()
        await record(shop)
        await set_rules(stores, shop, limit(2))
        for place, customer in enumerate(customers):
            assert window(shop, customer) == columns.at_ms[2 * place : 2 * place + 2]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_change_that_fails_anywhere_is_finished_by_the_next_push(stores: Stores, lost: bool) -> None:
    for calls in range(3):
        async with shop_of(stores) as shop:
            customer = uuid4()
            await spread_four(shop, customer)
            change = BatchChanges(rules=limit(5))
            with pytest.raises(RedisUnavailableError):
                await change_batch(failing_after(stores, calls, lost=lost), shop.batch, change, actor="test")
            assert not (await find_batch(stores.postgres, shop.batch)).in_redis
            # The first step closes the batch; the last one opens it again.
            done = calls + lost
            expected = {0: "GRANTED", 1: "REBUILDING", 2: "REBUILDING", 3: "LIMIT_REACHED"}[done]
            if done == 3:
                assert words(shop.redeem(customer=customer)) == ["GRANTED"]
            assert words(shop.redeem(customer=customer)) == [expected]

            await push_batch(stores, shop.batch)
            assert (await find_batch(stores.postgres, shop.batch)).in_redis
            missing = 0 if done in (0, 3) else 1
            assert words(shop.redeem(2, customer=customer)) == ["GRANTED"] * missing + ["LIMIT_REACHED"] * (2 - missing)
            revision = batch_hash(shop)
            await push_batch(stores, shop.batch)
            assert batch_hash(shop) == revision


async def test_a_change_that_overtakes_a_failed_one_still_rebuilds(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        customer = uuid4()
        await spread_four(shop, customer)
        with pytest.raises(RedisUnavailableError):
            await change_batch(failing_after(stores, 1), shop.batch, BatchChanges(rules=limit(4)), actor="test")
        await change_batch(stores, shop.batch, BatchChanges(paused=True), actor="test")
        assert words(shop.redeem(customer=customer)) == ["PAUSED"]
        await change_batch(stores, shop.batch, BatchChanges(paused=False), actor="test")
        assert words(shop.redeem(customer=customer)) == ["LIMIT_REACHED"]


async def test_a_push_that_was_overtaken_does_not_close_the_batch_again(stores: Stores) -> None:
    """A push that lost its lock resumes when another one has done the work, and may be killed at any point."""
    async with shop_of(stores) as shop:
        customer = uuid4()
        await set_rules(stores, shop, limit(2))
        shop.redeem(1, customer=customer)
        await stores.postgres.execute("UPDATE batches SET redis_revision = 1")
        await push_batch(failing_after(stores, 2), shop.batch)
        assert words(shop.redeem(2, customer=customer)) == ["GRANTED", "LIMIT_REACHED"]
        batch = await find_batch(stores.postgres, shop.batch)
        assert batch.redis_revision == batch.revision == 2


async def test_changes_at_the_same_time_end_in_the_latest_rules(stores: Stores) -> None:
    async with shop_of(stores) as shop:
        customer = uuid4()
        await spread_four(shop, customer)
        await asyncio.gather(*[set_rules(stores, shop, limit(count)) for count in (1, 2, 3, 9, 5, 6)])
        batch = await find_batch(stores.postgres, shop.batch)
        there = batch_hash(shop)
        assert (there["limits"], there["rebuilding"]) == (batch.rules.packed(), "")
        assert int(there["revision"]) == batch.revision == batch.redis_revision == 7
        assert len(window(shop, customer)) == min(4, batch.rules.maxpercustomer or 0)


async def test_limits_hold_exactly_while_they_change_under_load(stores: Stores) -> None:
    async with shop_of(stores, (1_000,)) as shop, shop_of(stores) as _:
        customer = uuid4()
        await set_rules(stores, shop, limit(5))
        answers: list[str] = []
        stopped = asyncio.Event()

        def hammer() -> list[str]:
            return words(shop.redeem(1, customer=customer))

        async def hammering() -> None:
            while not stopped.is_set():
                answers.extend(await asyncio.to_thread(hammer))
                if len(answers) % 5 == 0:
                    await record(shop, ack=len(answers) % 2 == 0)

        task = asyncio.create_task(hammering())
        for most in (6, 8, 12, 20):
            await set_rules(stores, shop, limit(most))
            before = len(answers)
            while answers[before:].count("LIMIT_REACHED") == 0:
                await asyncio.sleep(0)
                assert not task.done()
            assert answers.count("GRANTED") == most
        stopped.set()
        await task
        assert set(answers) <= {"GRANTED", "LIMIT_REACHED", "REBUILDING"}
        assert answers.count("GRANTED") == 20
