"""Exactly the codes there are, exactly the limits that were set: crowds on four API processes, counted at both ends."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from issuer.storage.migrate import migrate
from tests.support.crowd import CrowdAnswer, CrowdRequest, handed_out, tally
from tests.support.databases import clone_database
from tests.support.loading import A, B, codes
from tests.support.servers import PostgresServer, RedisServer
from tests.support.service import Service, crowd_of_all, settings_of, wishes

REQUESTS: Final = 20_000
CODES: Final = 5_000
WINDOW_S: Final = 1
WINDOWS: Final = 6
SOLD_OUT: Final = "404 no code found"
REFILLING: Final = "503 pool refilling"


@pytest.fixture(scope="module")
def service(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """One for all tests that need no other settings; each has a batch of its own."""
    settings = settings_of(redis_server, clone_database(postgres_server))
    with Service(settings, tmp_path_factory.mktemp("service")) as started:
        yield started


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


async def test_more_customers_than_codes(service: Service) -> None:
    stock = codes("ONE", CODES)
    batch = await service.preload("one client", stock)
    async with crowd_of_all(service) as crowd:
        asking = asyncio.create_task(crowd.ask(wishes(REQUESTS, batch, [A])))
        await crowd.until_granted(CODES // 10)
        await service.reconcile()
        answers = await asking
    assert tally(answers) == {"200": CODES, SOLD_OUT: REQUESTS - CODES}
    await check_all_handed_out(service, batch, stock, handed_out(answers))


async def test_two_clients_in_a_batch(service: Service) -> None:
    stock = codes("TWO-A", CODES // 2) + codes("TWO-B", CODES // 2, B)
    batch = await service.preload("two clients", stock)
    wanted = wishes(REQUESTS, batch, [A, B])
    async with crowd_of_all(service) as crowd:
        answers = await crowd.ask(wanted)
    assert tally(answers) == {"200": CODES, SOLD_OUT: REQUESTS - CODES}
    owner = {code: client for client, code in stock}
    for wish, answer in zip(wanted, answers, strict=True):
        assert answer.status != 200 or owner[answer.text] == wish.client_id
    await check_all_handed_out(service, batch, stock, handed_out(answers))


async def test_codes_are_added_meanwhile(service: Service) -> None:
    first, second = codes("EARLY", CODES // 2), codes("LATE", CODES // 2)
    batch = await service.preload("added", first)
    async with crowd_of_all(service) as crowd:
        asking = asyncio.create_task(crowd.ask(wishes(REQUESTS, batch, [A])))
        await crowd.until_granted(CODES // 10)
        loading = asyncio.create_task(service.preload("added", second))
        answers = await asking
        given = handed_out(answers)
        # Some of those who came too early ask again while the codes are loaded, all of them after that.
        while not loading.done():
            answers = await crowd.ask(wishes(min(500, REQUESTS - len(given)), batch, [A]))
            given += handed_out(answers)
            assert set(tally(answers)) <= {"200", SOLD_OUT, REFILLING}
        assert await loading == batch
        late, _ = await crowd.ask_until(wishes(REQUESTS - len(given), batch, [A]), is_refilling)
    assert set(tally(late)) <= {"200", SOLD_OUT}
    given += handed_out(late)
    assert tally(late)[SOLD_OUT] == REQUESTS - CODES
    await check_all_handed_out(service, batch, first + second, given)


async def test_a_pool_larger_than_the_high_water_mark(
    redis_server: RedisServer, database_url: str, tmp_path: Path
) -> None:
    settings = settings_of(redis_server, database_url)
    stock = codes("HIGH", CODES)
    with Service(settings, tmp_path, ISSUER_POOL_HIGH_WATER="1000") as service:
        batch = await service.preload("high water", stock)
        async with crowd_of_all(service) as crowd:
            answers, retried = await crowd.ask_until(wishes(REQUESTS, batch, [A]), is_refilling)
        assert tally(answers) == {"200": CODES, SOLD_OUT: REQUESTS - CODES}
        assert set(retried) == {REFILLING}
        await check_all_handed_out(service, batch, stock, handed_out(answers))


async def test_postgres_is_stopped_meanwhile(redis_server: RedisServer, tmp_path: Path) -> None:
    stock = codes("AWAY", CODES)
    with PostgresServer(tmp_path / "postgres", durable=False) as postgres:
        settings = settings_of(redis_server, postgres.url())
        await migrate(settings)
        with Service(settings, tmp_path / "service", ISSUER_POOL_HIGH_WATER="1000") as service:
            batch = await service.preload("away", stock)
            async with crowd_of_all(service) as crowd:
                asking = asyncio.create_task(crowd.ask(wishes(REQUESTS, batch, [A])))
                await crowd.until_granted(CODES // 10)
                await asyncio.to_thread(postgres.stop)
                answers = await asking
                given = handed_out(answers)
                assert set(tally(answers)) <= {"200", REFILLING}
                # Redis gives what it still has, then everybody is told to come again: nobody that it is sold out.
                while handed_out(answers):
                    answers = await crowd.ask(wishes(REQUESTS - len(given), batch, [A]))
                    given += handed_out(answers)
                assert tally(answers) == {REFILLING: REQUESTS - len(given)}
                assert 0 < len(given) < CODES
                postgres.start()
                answers, retried = await crowd.ask_until(wishes(REQUESTS - len(given), batch, [A]), is_refilling)
            given += handed_out(answers)
            assert set(retried) == {REFILLING}
            assert tally(answers)[SOLD_OUT] == REQUESTS - CODES
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
        assert min(third - first for first, third in zip(times, times[2:], strict=False)) < timedelta(
            seconds=2 * WINDOW_S
        )
    await service.reconcile()


async def test_retries_with_keys(service: Service) -> None:
    stock = codes("KEY", CODES)
    batch = await service.preload("keys", stock)
    impatient = [CrowdRequest(batch, A, uuid.uuid4(), f"left-{number}") for number in range(300)]
    patient = [CrowdRequest(batch, A, uuid.uuid4(), f"order-{number}") for number in range(2_000)]
    async with crowd_of_all(service) as crowd:
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
