"""The bound of the backlog changes in an order in which the bound in Postgres is never too small."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from issuer.contract.keys import partition_keys
from issuer.contract.outcomes import Outcome
from issuer.recovery import backlog
from issuer.recovery.backlog import set_max_backlog
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import Recovery
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.recovery import blessed_again, drain, engine_of, kill_unheard, make_batch, redeem, seqs
from tests.support.servers import RedisServer


async def _bound(stores: Stores) -> int:
    return int(await stores.postgres.fetchval("SELECT max_backlog FROM installation"))


async def test_a_lower_bound_counts_at_once_and_in_postgres_once_the_backlog_is_within_it(
    settings: Settings, stores: Stores
) -> None:
    before = await _bound(stores)
    batch_id = await make_batch(stores, 100)
    async with engine_of(settings, stores) as engine:
        await redeem(engine, batch_id, 20)
        assert not await set_max_backlog(stores, 10, wait_s=0, actor="test")
        assert await _bound(stores) == before
        assert {a.outcome for a in await redeem(engine, batch_id, 2)} == {Outcome.BACKLOG_FULL}
        await drain(stores)
        assert await set_max_backlog(stores, 10, wait_s=5, actor="test")
        assert await _bound(stores) == 10
        outcomes = [a.outcome for a in await redeem(engine, batch_id, 12)]
        assert (outcomes.count(Outcome.GRANTED), outcomes.count(Outcome.BACKLOG_FULL)) == (10, 2)


async def test_a_higher_bound_counts_at_once(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 100)
    await set_max_backlog(stores, 5, wait_s=5, actor="test")
    async with engine_of(settings, stores) as engine:
        await redeem(engine, batch_id, 6)
        assert await set_max_backlog(stores, 50, wait_s=0, actor="test")
        assert await _bound(stores) == 50
        assert {a.outcome for a in await redeem(engine, batch_id, 20)} == {Outcome.GRANTED}


async def test_a_bound_that_is_lowered_while_redis_restarts_is_never_below_that_of_redis(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery blesses the partitions with the bound that Postgres still has."""
    real = backlog._store
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pauses(*args: object, **options: object) -> bool:
        reached.set()
        await go_on.wait()
        return await real(*args, **options)  # type: ignore[arg-type]

    async with open_stores(own_settings) as stores:
        monkeypatch.setattr(backlog, "_store", pauses)
        lowering = asyncio.create_task(set_max_backlog(stores, 5, wait_s=30, actor="test"), name="lowering")
        await reached.wait()
        own_redis.kill9()
        own_redis.start()
        await blessed_again(stores)
        go_on.set()
        assert await lowering
        states = [partition_keys(partition).state for partition in range(stores.redis.partitions)]
        assert {int(await stores.redis.client.hget(state, "max_backlog") or 0) for state in states} == {5}
        assert await _bound(stores) == 5


async def test_a_bound_that_is_raised_during_a_recovery_is_that_of_its_quarantine(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the fence Redis may have enforced the higher one."""
    real = Recovery._decide

    async def decides(recovery: Recovery, *args: Any) -> Any:
        decision = await real(recovery, *args)
        await recovery._postgres.execute("UPDATE installation SET max_backlog = 80")
        return decision

    async with open_stores(own_settings) as stores:
        await make_batch(stores, 200)
        await kill_unheard(stores)
        own_redis.restart_empty()
        monkeypatch.setattr(Recovery, "_decide", decides)
        await blessed_again(stores)
        assert await seqs(stores, "quarantined") == list(range(1, 81))
        state = partition_keys(0).state
        assert await stores.redis.client.hget(state, "max_backlog") == b"80"
