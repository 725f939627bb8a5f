"""Redis' clock steps: nothing ends, starts or is granted by a clock that cannot be right."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from issuer.batches.batch import BatchChanges
from issuer.batches.rules import parse_rules
from issuer.batches.store import change_batch
from issuer.contract.keys import partition_keys
from issuer.contract.outcomes import Outcome
from issuer.engine.engine import Engine
from issuer.recovery.doctor import Check, examine
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.redis_link import NotReadyError
from issuer.storage.server_watch import Stop
from issuer.storage.stores import Stores
from tests.support.recovery import CLIENT, drain, engine_of, make_batch, ready, redeem, seqs
from tests.support.server_clock import ServerClock
from tests.support.servers import RedisServer

MONTH = timedelta(days=30)
YEAR_S = 370 * 86_400


@pytest.fixture
def clock(tmp_path: Path) -> ServerClock:
    return ServerClock(tmp_path)


@pytest.fixture
def own_redis(tmp_path: Path, clock: ServerClock) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    clock.give_to(server)
    with server:
        yield server


async def outcomes(engine: Engine, batches: list[UUID]) -> list[Outcome]:
    return [(await redeem(engine, batch_id, 1))[0].outcome for batch_id in batches]


@pytest.mark.parametrize(
    "steps_s", [(YEAR_S, -9), pytest.param((9, 3_600, -3_600, -YEAR_S), marks=pytest.mark.long)], ids=["two", "others"]
)
async def test_a_clock_that_steps_ends_starts_and_grants_nothing(
    own_settings: Settings, clock: ServerClock, steps_s: tuple[int, ...]
) -> None:
    """A step counts less the time that its answer took: 9 s are more than 5 s on a busy machine, too."""
    async with open_stores(own_settings) as stores:
        plain, ending, starting = batches = [await make_batch(stores, 100) for _ in range(3)]
        soon = datetime.now(UTC) + MONTH
        await change_batch(stores, ending, BatchChanges(ends_at=soon), actor="test")
        await change_batch(stores, starting, BatchChanges(starts_at=soon), actor="test")
        right = [Outcome.GRANTED, Outcome.GRANTED, Outcome.NOT_STARTED]
        async with engine_of(own_settings, stores) as engine:
            assert await outcomes(engine, batches) == right
            for number, step_s in enumerate(steps_s):
                clock.step(step_s)
                assert await outcomes(engine, batches) == [Outcome.NOT_READY] * 3, step_s
                async with asyncio.timeout(30):
                    while Stop.CLOCK not in stores.incarnations.watch.stops:
                        await asyncio.sleep(0.01)
                # Windows are written for as long as they are valid: not by this clock.
                changes = BatchChanges(rules=parse_rules({"maxpercustomer": 1_000 + number}))
                with pytest.raises(NotReadyError, match="clock"):
                    await change_batch(stores, plain, changes, actor="test")
                clock.step(0)
                await ready(engine)
                assert (await outcomes(engine, batches))[1:] == right[1:], step_s
            await drain(stores)
        newest = await stores.postgres.fetchval("SELECT max(redeemed_at) FROM redemptions")
        assert newest < datetime.now(UTC) + timedelta(hours=1)


async def test_a_step_within_the_tolerance_is_followed(own_settings: Settings, clock: ServerClock) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 100)
        async with engine_of(own_settings, stores) as engine:
            for step_s in (4, 0, -4, 0):
                clock.step(step_s)
                assert await outcomes(engine, [batch_id]) == [Outcome.GRANTED], step_s


async def test_limits_and_kept_answers_outlive_a_clock_on_which_they_expire(
    own_settings: Settings, own_redis: RedisServer, clock: ServerClock
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 100, {"limits": [{"max": 1, "seconds": 86_400}]})
        async with engine_of(own_settings, stores) as engine:
            customer, ref = uuid.uuid4().bytes, engine.pool_ref(batch_id, CLIENT)
            first = await engine.redeem(ref, customer, idempotency_key="k")
            stopped_at_change: list[bool] = []
            watch = stores.incarnations.watch
            stores.incarnations.on_change(lambda: stopped_at_change.append(Stop.LOST_KEYS in watch.stops))
            clock.step(YEAR_S)
            with own_redis.client() as client:
                while client.exists(ref.batch.window_prefix + customer):
                    await asyncio.sleep(0.01)
            assert await outcomes(engine, [batch_id]) == [Outcome.NOT_READY]
            assert not (await doctor_says(own_settings, stores, "clocks of redis and postgres")).ok
            clock.step(0)
            await ready(engine)
            # No engine opens its connection under the epoch of before.
            assert stopped_at_change
            assert all(stopped_at_change)
            again = await engine.redeem(ref, customer, idempotency_key="k")
            assert (again.outcome, again.code) == (Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
        assert await seqs(stores, "quarantined") == []
        # Once, not again and again.
        await stores.guardian.check()
        assert await stores.postgres.fetchval("SELECT array_agg(epoch ORDER BY epoch) FROM incarnations") == [2]


async def test_a_partition_whose_clock_is_ahead_is_healed_by_command(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        second, month = [
            await make_batch(stores, 100, {"limits": [{"max": 1, "seconds": seconds}]}) for seconds in (1, 30 * 86_400)
        ]
        for partition in range(stores.redis.partitions):
            ahead_ms = int(time.time() * 1000) + 3_600_000
            await stores.redis.client.hset(partition_keys(partition).state, "clock", str(ahead_ms))
        async with engine_of(own_settings, stores) as engine:
            customer = uuid.uuid4().bytes
            refs = [engine.pool_ref(batch_id, CLIENT) for batch_id in (second, month)]
            assert [(await engine.redeem(ref, customer)).outcome for ref in refs] == [Outcome.GRANTED] * 2
            assert ((await engine.redeem(refs[0], customer)).retry_at_ms or 0) > ahead_ms
            assert not (await doctor_says(own_settings, stores, "clocks of the partitions")).ok
            report = await stores.guardian.check(RecoveryOptions(rebuild=True))
            assert report is not None
            assert (report.verdict, report.drained) == (Verdict.RESTART, 2)
            assert (await doctor_says(own_settings, stores, "clocks of the partitions")).ok
            await ready(engine)
            # As of the recovery: no window opens early.
            assert (await engine.redeem(refs[1], customer)).outcome is Outcome.LIMIT_REACHED
            async with asyncio.timeout(30):
                while (answer := await engine.redeem(refs[0], customer)).outcome is not Outcome.GRANTED:
                    assert (answer.retry_at_ms or 0) < ahead_ms
                    await asyncio.sleep(0.05)
        assert await seqs(stores, "quarantined") == []


async def doctor_says(settings: Settings, stores: Stores, name: str) -> Check:
    (check,) = [check for check in await examine(settings, stores.postgres) if check.name == name]
    return check
