"""Coupons after a loss of Redis: never more consumptions than there are, and every seq accounted for."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from issuer.batches.revisions import push_batch
from issuer.batches.rules import parse_rules
from issuer.contract.events import encode_order
from issuer.contract.keys import partition_keys, partition_of
from issuer.contract.outcomes import Outcome
from issuer.coupons.coupon import Coupon, CouponTerms
from issuer.coupons.fields import terms_fields
from issuer.coupons.folding import coupon_id, fold, fold_fully
from issuer.coupons.locations import CouponLocations
from issuer.coupons.reversal import AlreadyReversedError, reverse_use
from issuer.coupons.store import change_coupon, count_used, create_coupon, find_coupon
from issuer.coupons.uses import use_id
from issuer.engine.calls import Answer, UseAnswer
from issuer.engine.engine import Engine
from issuer.ledger.dead_letters import retry_dead_letters
from issuer.ledger.reconcile import reconcile
from issuer.pools.top_up import top_up
from issuer.recovery.aftermath import reissue_void
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.recovery.release import list_quarantined, release
from issuer.settings import Settings
from issuer.storage.postgres import PUSH_LOCK, advisory_lock, lock_of
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.recording import failing_after
from tests.support.recovery import blessed_again, drain, engine_of, ready, seqs, verdict
from tests.support.servers import RedisServer

pytestmark = pytest.mark.long

CLIENT = uuid.UUID(int=9)
CODE = "SAVE-20"


async def make(stores: Stores, uses: int, **terms: Any) -> Coupon:
    return await create_coupon(stores, CLIENT, CODE, CouponTerms(uses, **terms), actor="test")


async def use(engine: Engine, count: int, *, key: str | None = None, customer: UUID | None = None) -> list[Answer]:
    place = CouponLocations(engine).find(CLIENT, CODE)
    futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for future in futures:
        who = (customer or uuid.uuid4()).bytes
        engine.submit(future, place.use, who, 3, key, place.bare_wish, encode_order("order"))
    return list(await asyncio.gather(*futures))


def granted(answers: list[Answer]) -> list[str]:
    uses = [answer for answer in answers if isinstance(answer, UseAnswer) and answer.outcome is Outcome.GRANTED]
    return [use_id(answer.uses, answer.number).decode() for answer in uses if answer.uses is not None]


async def remaining(stores: Stores) -> int:
    coupon = await find_coupon(stores.postgres, CODE, client_id=CLIENT)
    return max(0, coupon.terms.available - await count_used(stores, coupon))


async def balanced(stores: Stores) -> None:
    result = await reconcile(stores)
    assert result.holds, result.to_json()


async def test_the_same_data_after_a_kill_are_a_restart(own_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(own_settings) as stores:
        await make(stores, 30)
        async with engine_of(own_settings, stores) as engine:
            first = granted(await use(engine, 10))
            own_redis.kill9()
            own_redis.start()
            await blessed_again(stores)
            await ready(engine)
            assert await verdict(stores) == "restart"
            second = granted(await use(engine, 30))
            assert (len(first), len(second), len({*first, *second})) == (10, 20, 30)
        await drain(stores)
        assert await seqs(stores, "consumptions") == list(range(1, 31))
        await balanced(stores)


async def test_seqs_that_a_lost_redis_may_have_granted_are_quarantined(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 200, rules=parse_rules({"maxpercustomer": 1}))
        customer = uuid.uuid4()
        async with engine_of(own_settings, stores) as engine:
            (first,) = await use(engine, 1, key="k", customer=customer)
            await use(engine, 19)
            await drain(stores)
            await use(engine, 30)  # lost with Redis
            with own_redis.client() as client:
                client.flushall()
            await blessed_again(stores)
            await ready(engine)
            assert await verdict(stores) == "bounded"
            assert await seqs(stores, "quarantined") == list(range(21, 71))
            assert await remaining(stores) == 200 - 20 - 50
            (again,) = await use(engine, 1, key="k", customer=customer)
            assert isinstance(first, UseAnswer)
            assert again == UseAnswer(Outcome.REPLAYED, number=first.number, uses=first.uses)
            (refused,) = await use(engine, 1, customer=customer)
            assert refused.outcome is Outcome.LIMIT_REACHED
            total = 0
            while some := len(granted(await use(engine, 50))):
                total += some
                await drain(stores)
            assert total == 130
            await balanced(stores)
            assert await release(stores, coupon.id, actor="test") == 50
            assert await remaining(stores) == 50
            assert len(granted(await use(engine, 50))) == 50
            await drain(stores)
            (sold,) = await use(engine, 1)
            assert sold.outcome is Outcome.SOLD_OUT
        (held,) = await list_quarantined(stores.postgres)
        assert (held.held, held.released) == (0, 50)
        assert await seqs(stores, "consumptions") == [*range(1, 21), *range(71, 251)]
        await balanced(stores)


async def test_uses_that_no_caller_received_are_added_again(own_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(own_settings) as stores:
        await make(stores, 10)
        await stores.postgres.execute("INSERT INTO void_seqs (pool_id, seq, epoch) SELECT id, 3, 1 FROM pools")
        await reissue_void(stores)
        assert await remaining(stores) == 11


@pytest.mark.parametrize("lose", [True, False])
async def test_a_coupon_stays_closed_until_postgres_knows_that_it_was_opened(
    own_settings: Settings, own_redis: RedisServer, lose: bool
) -> None:
    async with open_stores(own_settings) as stores:
        coupon = await make(failing_after(stores, 1, lost=True), 100)  # the pool is in Redis, but its reply was lost
        assert await stores.postgres.fetchval("SELECT opened FROM pools") is False
        assert await remaining(stores) == 100
        async with engine_of(own_settings, stores) as engine:
            await ready(engine)
            assert {answer.outcome for answer in await use(engine, 3)} == {Outcome.REBUILDING}
            if lose:
                with own_redis.client() as client:
                    client.flushall()
                await blessed_again(stores)
                await ready(engine)
                assert {answer.outcome for answer in await use(engine, 3)} == {Outcome.REBUILDING}
            await top_up(stores)
            await push_batch(stores, coupon.id)
            assert len(granted(await use(engine, 10))) == 10
        await drain(stores)
        assert await seqs(stores, "consumptions") == list(range(1, 11))
        await balanced(stores)


async def test_the_journal_restores_what_redis_lost(journal_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(journal_settings) as stores:
        await make(stores, 40)
        async with engine_of(journal_settings, stores) as engine:
            given = granted(await use(engine, 25))
            with own_redis.client() as client:
                client.flushall()
            await blessed_again(stores)
            await ready(engine)
            assert await seqs(stores, "consumptions") == list(range(1, 26))
            assert await seqs(stores, "quarantined") == []
            assert await remaining(stores) == 15
            await reverse_use(stores, given[3], client_id=CLIENT, actor="test")
            assert await remaining(stores) == 16
        await balanced(stores)


async def test_a_reversal_is_known_after_a_loss_and_counts_once(own_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(own_settings) as stores:
        await make(stores, 1_000, rules=parse_rules({"maxpercustomer": 2}))
        customer = uuid.uuid4()
        async with engine_of(own_settings, stores) as engine:
            names = granted(await use(engine, 2, customer=customer))
            await drain(stores)
            own_redis.stop()
            await reverse_use(stores, names[0], client_id=CLIENT, actor="test")
            with_redis_away = await stores.postgres.fetchval("SELECT count(*) FROM reversals WHERE returned_at IS NULL")
            assert with_redis_away == 1
            own_redis.start()
            await blessed_again(stores)
            with own_redis.client() as client:
                client.flushall()
            await blessed_again(stores)
            await ready(engine)
            assert await stores.postgres.fetchval("SELECT count(*) FROM reversals WHERE returned_at IS NULL") == 0
            assert await remaining(stores) == 1_000 - 2 - 50 + 1
            assert len(granted(await use(engine, 3, customer=customer))) == 1
        await drain(stores)
        await balanced(stores)


async def test_a_reversal_counts_with_new_limits_and_in_a_recovery(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    """Redis keeps the windows, and no customer here has a row from which a window would be rebuilt."""
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 1_000, rules=parse_rules({"maxpercustomer": 1}))
        customers = uuid.uuid4(), uuid.uuid4()
        async with engine_of(own_settings, stores) as engine:
            names = [granted(await use(engine, 1, customer=customer))[0] for customer in customers]
            await drain(stores)
            without_redis = failing_after(stores, 0)
            await reverse_use(without_redis, names[0], client_id=CLIENT, actor="test")
            await change_coupon(
                stores, coupon, lambda _: {"rules": parse_rules({"maxpercustomer": 1, "timelimit": 9})}, actor="t"
            )
            assert len(granted(await use(engine, 2, customer=customers[0]))) == 1
            await reverse_use(without_redis, names[1], client_id=CLIENT, actor="test")
            await stores.guardian.check(RecoveryOptions(margin=1))
            await ready(engine)
            assert len(granted(await use(engine, 2, customer=customers[1]))) == 1
            assert granted(await use(engine, 1, customer=customers[0])) == []
        assert await stores.postgres.fetchval("SELECT count(*) FROM reversals WHERE returned_at IS NULL") == 0


async def test_a_reversal_after_a_lowered_limit_allows_no_more_than_the_limit(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 100, rules=parse_rules({"maxpercustomer": 9}))
        customer = uuid.uuid4()
        async with engine_of(own_settings, stores) as engine:
            names = granted(await use(engine, 8, customer=customer))
            await drain(stores)
            await change_coupon(stores, coupon, lambda _: {"rules": parse_rules({"maxpercustomer": 5})}, actor="t")
            await use(engine, 5)
            for name in names[4:7]:
                with capture_logs() as logs:
                    await reverse_use(stores, name, client_id=CLIENT, actor="test")
                assert [log["customers"] for log in logs if log["event"] == "windows rebuilt"] == [1], (
                    "of this customer only"
                )
                assert granted(await use(engine, 1, customer=customer)) == []
            await reverse_use(stores, names[7], client_id=CLIENT, actor="test")
            assert len(granted(await use(engine, 3, customer=customer))) == 1


async def test_uses_at_the_same_time_are_reversed_one_by_one(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        await make(stores, 100, rules=parse_rules({"maxpercustomer": 3}))
        customer = uuid.uuid4()
        async with engine_of(own_settings, stores) as engine:
            names = granted(await use(engine, 3, customer=customer))  # in one call, so at one time
            await drain(stores)
            with pytest.raises(RedisUnavailableError):
                await push_failing(stores, names[0])
            await push_batch(stores, (await find_coupon(stores.postgres, CODE, client_id=CLIENT)).id)
            assert len(granted(await use(engine, 2, customer=customer))) == 1


@pytest.mark.parametrize("clock_advances", [True, False])
async def test_an_unrecorded_use_at_the_time_of_a_reversed_one_stays_counted(
    own_settings: Settings, own_redis: RedisServer, clock_advances: bool
) -> None:
    """The host's clock has stepped back, so all uses have the same time until it has caught up."""
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 100, rules=parse_rules({"maxpercustomer": 3}))
        state = partition_keys(partition_of(coupon.id, stores.redis.partitions)).state
        customer = uuid.uuid4()
        with own_redis.client() as client:
            ahead_ms = (int(client.time()[0]) + 3_600) * 1_000
            client.hset(state, "clock", ahead_ms)
            async with engine_of(own_settings, stores) as engine:
                (name,) = granted(await use(engine, 1, customer=customer))
                await drain(stores)
                assert len(granted(await use(engine, 1, customer=customer))) == 1  # in the backlog
                if clock_advances:
                    client.hset(state, "clock", ahead_ms + 1)
                await reverse_use(stores, name, client_id=CLIENT, actor="test")
                assert len(granted(await use(engine, 5, customer=customer))) == 2
        await drain(stores)
        times = await stores.postgres.fetch("SELECT count(*) AS uses FROM consumptions GROUP BY consumed_at")
        assert sorted(row["uses"] for row in times) == ([2, 2] if clock_advances else [4])
        await balanced(stores)


async def test_a_change_in_postgres_does_not_wait_for_another_push(own_settings: Settings) -> None:
    """Another process holds the lock under which revisions are pushed to Redis."""
    async with open_stores(own_settings.model_copy(update={"postgres_timeout_s": 1.0})) as stores:
        coupon_lock = lock_of(PUSH_LOCK, coupon_id(CLIENT, fold_fully(fold(CODE))))
        async with stores.postgres.acquire() as connection, advisory_lock(connection, coupon_lock):
            coupon = await make(stores, 3)
        await push_batch(stores, coupon.id)
        await top_up(stores, thorough=True)
        await push_batch(stores, coupon.id)
        async with engine_of(own_settings, stores) as engine:
            (name,) = granted(await use(engine, 1))
            await drain(stores)
            async with stores.postgres.acquire() as connection, advisory_lock(connection, coupon_lock):
                assert (await reverse_use(stores, name, client_id=CLIENT, actor="test")).consumption_id == name
            with pytest.raises(AlreadyReversedError):
                await reverse_use(stores, name, client_id=CLIENT, actor="test")
            assert await stores.postgres.fetchval("SELECT count(*) FROM reversals") == 1


async def test_a_change_applies_to_the_stored_terms_not_to_those_read_before(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        read = await make(stores, 3, discount_fixed=Decimal(5), currency="EUR")
        await change_coupon(stores, read, lambda terms: {"discount_fixed": Decimal(10)}, actor="test")
        dearer = await change_coupon(
            stores, read, lambda terms: terms_fields({"currency": "USD"}, terms, "EUR"), actor="test"
        )
        assert (dearer.terms.discount_fixed, dearer.terms.currency) == (Decimal(10), "USD")


async def push_failing(stores: Stores, name: str) -> None:
    """Reverse a use; Redis removes it from the window, and the reply is lost."""
    await reverse_use(failing_after(stores, 0), name, client_id=CLIENT, actor="test")
    await push_batch(
        failing_after(stores, 0, lost=True), (await find_coupon(stores.postgres, CODE, client_id=CLIENT)).id
    )


async def test_a_lower_total_after_a_loss_reuses_no_seq(own_settings: Settings, own_redis: RedisServer) -> None:
    """Seqs up to the highest total that Redis ever had may have been granted."""
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 100)
        async with engine_of(own_settings, stores) as engine:
            assert len(granted(await use(engine, 40))) == 40  # none of them reaches the ledger
            # As if the change had been made in Postgres, and Redis had never heard of it.
            await stores.postgres.execute("UPDATE coupons SET available = 10 WHERE batch_id = $1", coupon.id)
            with own_redis.client() as client:
                client.flushall()
            await blessed_again(stores)
            await ready(engine)
            assert await seqs(stores, "quarantined") == list(range(1, 51))
            assert await remaining(stores) == 0
            await change_coupon(
                stores,
                await find_coupon(stores.postgres, CODE, client_id=CLIENT),
                lambda _: {"available": 55},
                actor="t",
            )
            assert len(granted(await use(engine, 20))) == 5
        await drain(stores)
        assert await seqs(stores, "consumptions") == list(range(51, 56))


async def test_a_restored_backup_quarantines_from_the_first_seq_on(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        await make(stores, 10**12)
        await stores.guardian.check(RecoveryOptions(restored=True))
        assert await seqs(stores, "quarantined") == list(range(1, 51))
        assert await remaining(stores) == 10**12 - 50


async def test_a_use_that_cannot_be_recorded_is_a_dead_letter_until_it_can(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        await make(stores, 20)
        async with engine_of(own_settings, stores) as engine:
            await use(engine, 3)
        (terms,) = await stores.postgres.fetch("DELETE FROM coupon_terms RETURNING pool_id, number, terms")
        await drain(stores)
        assert await seqs(stores, "dead_letters") == [1, 2, 3]
        assert await seqs(stores, "consumptions") == []
        await balanced(stores)
        await stores.postgres.execute("INSERT INTO coupon_terms VALUES ($1, $2, $3)", *terms.values())
        assert (await retry_dead_letters(stores.postgres, actor="test")).resolved == 3
        assert await seqs(stores, "consumptions") == [1, 2, 3]
        assert await remaining(stores) == 17
        await balanced(stores)


async def test_a_number_lowered_while_redis_restarts_counts_once_redis_has_it(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 100)
        async with engine_of(own_settings, stores) as engine:
            assert len(granted(await use(engine, 40))) == 40
            await drain(stores)
            with pytest.raises(RedisUnavailableError):
                await change_coupon(failing_after(stores, 0), coupon, lambda _: {"available": 45}, actor="test")
            # Refused with 503 and stored: the old number counts until Redis has the new one.
            assert len(granted(await use(engine, 20))) == 20
            await push_batch(stores, coupon.id)
            assert (await use(engine, 1))[0].outcome is Outcome.SOLD_OUT
            await drain(stores)
            lowered = await find_coupon(stores.postgres, CODE, client_id=CLIENT)
            assert (lowered.terms.available, await count_used(stores, lowered)) == (45, 60)
            await change_coupon(stores, coupon, lambda _: {"available": 62}, actor="test")
            assert [answer.outcome for answer in await use(engine, 3)] == [Outcome.GRANTED] * 2 + [Outcome.SOLD_OUT]


async def test_a_number_lowered_on_a_flushed_redis_counts_and_can_be_corrected(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        coupon = await make(stores, 300)
        async with engine_of(own_settings, stores) as engine:
            assert len(granted(await use(engine, 40))) == 40
            await drain(stores)
            with own_redis.client() as client:
                client.flushall()
            with suppress(RedisUnavailableError):
                await change_coupon(stores, coupon, lambda _: {"available": 3}, actor="test")
            await blessed_again(stores)
            await ready(engine)
            await push_batch(stores, coupon.id)
            assert {answer.outcome for answer in await use(engine, 2)} == {Outcome.SOLD_OUT}
            await change_coupon(stores, coupon, lambda _: {"available": 200}, actor="test")
            # What may have been used and is not accounted for (at most 50) counts as used.
            given = 0
            while some := len(granted(await use(engine, 30))):
                given += some
                await drain(stores)
            corrected = await find_coupon(stores.postgres, CODE, client_id=CLIENT)
            assert await count_used(stores, corrected) == 200
            assert 110 <= given <= 160
