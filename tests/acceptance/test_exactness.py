"""Exactly the codes there are, exactly the limits that were set: crowds on four API processes, counted at both ends."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from issuer.storage.migrate import migrate
from tests.support.crowd import CrowdAnswer, CrowdRequest, Rush, every_rush, handed_out, long_rush, tally
from tests.support.loading import A, B, codes
from tests.support.servers import PostgresServer, RedisServer
from tests.support.service import Service, crowd_of_all, settings_of, wishes

WINDOW_S: Final = 1
WINDOWS: Final = 6
SOLD_OUT: Final = "404 no code found"
REFILLING: Final = "503 pool refilling"


async def check_all_handed_out(service: Service, batch: UUID, stock: list[tuple[UUID, str]], given: list[str]) -> None:
    """The customers have every code of the stock once, and the ledger says the same; every seq is accounted for."""
    assert len(given) == len(set(given)) == len(stock)
    assert set(given) == {code for _, code in stock}
    rows = await service.ledger(batch, len(stock))
    assert sorted((row["client_id"], row["code"]) for row in rows) == sorted(stock)
    assert len({row["customer_id"] for row in rows}) == len(rows)
    assert f"issued {len(rows) // len({client for client, _ in stock})}" in await service.reconcile()


def is_refilling(answer: CrowdAnswer) -> bool:
    return (answer.status, answer.text) == (503, "pool refilling")


@every_rush
async def test_more_customers_than_codes(service: Service, rush: Rush) -> None:
    stock = codes(f"ONE-{rush.requests}-", rush.stock)
    batch = await service.preload(f"one client, {rush.requests}", stock)
    async with crowd_of_all(service, rush.connections) as crowd:
        asking = asyncio.create_task(crowd.ask(wishes(rush.requests, batch, [A])))
        await crowd.until_granted(rush.stock // 10)
        await service.reconcile()
        answers = await asking
    assert tally(answers) == {"200": rush.stock, SOLD_OUT: rush.refused}
    await check_all_handed_out(service, batch, stock, handed_out(answers))


@every_rush
async def test_two_clients_in_a_batch(service: Service, rush: Rush) -> None:
    stock = codes(f"TWO-A-{rush.requests}-", rush.stock // 2) + codes(f"TWO-B-{rush.requests}-", rush.stock // 2, B)
    batch = await service.preload(f"two clients, {rush.requests}", stock)
    wanted = wishes(rush.requests, batch, [A, B])
    async with crowd_of_all(service, rush.connections) as crowd:
        answers = await crowd.ask(wanted)
    assert tally(answers) == {"200": rush.stock, SOLD_OUT: rush.refused}
    owner = {code: client for client, code in stock}
    for wish, answer in zip(wanted, answers, strict=True):
        assert answer.status != 200 or owner[answer.text] == wish.client_id
    await check_all_handed_out(service, batch, stock, handed_out(answers))


@every_rush
async def test_codes_are_added_meanwhile(service: Service, rush: Rush) -> None:
    first, second = codes(f"EARLY-{rush.requests}-", rush.stock // 2), codes(f"LATE-{rush.requests}-", rush.stock // 2)
    batch = await service.preload(f"added, {rush.requests}", first)
    async with crowd_of_all(service, rush.connections) as crowd:
        asking = asyncio.create_task(crowd.ask(wishes(rush.requests, batch, [A])))
        await crowd.until_granted(rush.stock // 10)
        loading = asyncio.create_task(service.preload(f"added, {rush.requests}", second))
        answers = await asking
        given = handed_out(answers)
        # Some of those who came too early ask again while the codes are loaded, all of them after that.
        while not loading.done():
            answers = await crowd.ask(wishes(min(500, rush.requests - len(given)), batch, [A]))
            given += handed_out(answers)
            assert set(tally(answers)) <= {"200", SOLD_OUT, REFILLING}
        assert await loading == batch
        late, _ = await crowd.ask_until(wishes(rush.requests - len(given), batch, [A]), is_refilling)
    assert set(tally(late)) <= {"200", SOLD_OUT}
    given += handed_out(late)
    assert tally(late)[SOLD_OUT] == rush.refused
    await check_all_handed_out(service, batch, first + second, given)


@long_rush
async def test_a_pool_larger_than_the_high_water_mark(
    redis_server: RedisServer, database_url: str, tmp_path: Path, rush: Rush
) -> None:
    settings = settings_of(redis_server, database_url)
    stock = codes("HIGH", rush.stock)
    with Service(settings, tmp_path, ISSUER_POOL_HIGH_WATER="1000") as service:
        batch = await service.preload("high water", stock)
        async with crowd_of_all(service, rush.connections) as crowd:
            answers, retried = await crowd.ask_until(wishes(rush.requests, batch, [A]), is_refilling)
        assert tally(answers) == {"200": rush.stock, SOLD_OUT: rush.refused}
        assert set(retried) == {REFILLING}
        await check_all_handed_out(service, batch, stock, handed_out(answers))


@long_rush
async def test_postgres_is_stopped_meanwhile(redis_server: RedisServer, tmp_path: Path, rush: Rush) -> None:
    stock = codes("AWAY", rush.stock)
    with PostgresServer(tmp_path / "postgres", durable=False) as postgres:
        settings = settings_of(redis_server, postgres.url())
        await migrate(settings)
        with Service(settings, tmp_path / "service", ISSUER_POOL_HIGH_WATER="1000") as service:
            batch = await service.preload("away", stock)
            async with crowd_of_all(service, rush.connections) as crowd:
                asking = asyncio.create_task(crowd.ask(wishes(rush.requests, batch, [A])))
                await crowd.until_granted(rush.stock // 10)
                await asyncio.to_thread(postgres.stop)
                answers = await asking
                given = handed_out(answers)
                assert set(tally(answers)) <= {"200", REFILLING}
                # Redis gives what it still has, then everybody is told to come again: nobody that it is sold out.
                while handed_out(answers):
                    answers = await crowd.ask(wishes(rush.requests - len(given), batch, [A]))
                    given += handed_out(answers)
                assert tally(answers) == {REFILLING: rush.requests - len(given)}
                assert 0 < len(given) < rush.stock
                postgres.start()
                answers, retried = await crowd.ask_until(wishes(rush.requests - len(given), batch, [A]), is_refilling)
            given += handed_out(answers)
            assert set(retried) == {REFILLING}
            assert tally(answers)[SOLD_OUT] == rush.refused
            assert set(tally(answers)) <= {"200", SOLD_OUT}
            await check_all_handed_out(service, batch, stock, given)


async def test_one_customer_many_requests(service: Service) -> None:
    batch = await service.preload("one customer", codes("MAX", 1_000), "--rules", '{"maxpercustomer": 3}')
    customer = uuid.uuid4()
    async with crowd_of_all(service, connections=200) as crowd:
        answers = await crowd.ask([CrowdRequest(batch, A, customer)] * 200)
    assert tally(answers) == {"200": 3, "403 rule conditions not met": 197}
    rows = await service.ledger(batch, 3)
    assert sorted(row["code"] for row in rows) == sorted(handed_out(answers))
    assert {row["customer_id"] for row in rows} == {customer}
    await service.reconcile()


HIGHEST_IN_A_WINDOW: Final = """
SELECT max(many) FROM (
    SELECT count(*) OVER (
        PARTITION BY customer_id ORDER BY redeemed_at
        RANGE BETWEEN CURRENT ROW AND ($2::interval - interval '1 millisecond') FOLLOWING
    ) AS many
    FROM redemptions WHERE batch_id = $1
) AS windows
"""


async def test_a_sliding_window_under_fire(service: Service) -> None:
    rules = f'{{"limits": [{{"max": 2, "seconds": {WINDOW_S}}}]}}'
    batch = await service.preload("window", codes("WIN", 1_000), "--rules", rules)
    customers = [uuid.uuid4() for _ in range(3)]
    given: Counter[UUID] = Counter()
    async with service.crowd(connections=12) as crowd:
        wanted = [CrowdRequest(batch, A, customer) for customer in customers * 4]
        while min(given[customer] for customer in customers) < 2 * WINDOWS:
            answers = await crowd.ask(wanted)
            assert set(tally(answers)) <= {"200", "403 rule conditions not met"}
            given.update(wish.customer_id for wish, answer in zip(wanted, answers, strict=True) if answer.status == 200)
    rows = await service.ledger(batch, given.total())
    assert Counter(row["customer_id"] for row in rows) == given
    [most] = await service.sql(HIGHEST_IN_A_WINDOW, batch, timedelta(seconds=WINDOW_S))
    assert most[0] == 2
    # The customers ask all the time, so a window counted from the last refusal would never end. One twice as long
    # would never let the third redemption follow the first one so soon, which a busy machine does at times at least.
    for customer in customers:
        times = sorted(row["redeemed_at"] for row in rows if row["customer_id"] == customer)
        shortest = min(third - first for first, third in zip(times, times[2:], strict=False))
        assert shortest < timedelta(seconds=2 * WINDOW_S)
    await service.reconcile()


@every_rush
async def test_retries_with_keys(service: Service, rush: Rush) -> None:
    stock = codes(f"KEY-{rush.requests}-", rush.stock)
    batch = await service.preload(f"keys, {rush.requests}", stock)
    impatient = [CrowdRequest(batch, A, uuid.uuid4(), f"left-{number}") for number in range(rush.stock // 16)]
    patient = [CrowdRequest(batch, A, uuid.uuid4(), f"order-{number}") for number in range(rush.stock // 3)]
    async with crowd_of_all(service, rush.connections) as crowd:
        # Some hang up before their answer; then all ask three times at once.
        await crowd.leave(impatient)
        answers = await crowd.ask((patient + impatient) * 3)
    assert set(tally(answers)) == {"200"}
    size = len(patient + impatient)
    by_wish = [{answer.text for answer in answers[number::size]} for number in range(size)]
    assert all(len(given) == 1 for given in by_wish)
    assert len(set.union(*by_wish)) == size
    fresh = Counter(number % size for number, answer in enumerate(answers) if not answer.replayed)
    assert [fresh[number] for number in range(len(patient))] == [1] * len(patient)
    assert all(fresh[number] <= 1 for number in range(size))
    rows = await service.ledger(batch, size)
    assert {row["code"] for row in rows} == set.union(*by_wish)
    assert len(rows) == len({row["key_hash"] for row in rows}) == size
    await service.reconcile()
