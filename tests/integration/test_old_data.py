"""Data of Redis that are older than what was issued: what a recovery must see in them, each reason by itself."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.postgres import RECOVERY_LOCK, own_connection
from tests.support.recovery import blessed_again, engine_of, lose_data, make_batch, ready, redeem, verdict
from tests.support.servers import RedisServer


def granted(answers: list[Answer]) -> set[str]:
    return {answer.code for answer in answers if answer.outcome is Outcome.GRANTED}


@pytest.mark.long
async def test_a_copy_of_an_earlier_incarnation_is_a_loss(
    own_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """No ledger and no counter shows it: what was issued after the copy is recorded nowhere."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(own_settings, stores) as engine:
            await redeem(engine, batch_id, 5)
            shutil.copytree(own_redis.directory / "appendonlydir", tmp_path / "copy")
            after_copy = granted(await redeem(engine, batch_id, 20))
            own_redis.kill9()
            own_redis.start()
            await blessed_again(stores)
            assert await verdict(stores) == Verdict.RESTART
        own_redis.kill9()
        own_redis.wipe()
        shutil.copytree(tmp_path / "copy", own_redis.directory / "appendonlydir")
        own_redis.start()
        await blessed_again(stores)
        assert await verdict(stores) == Verdict.BOUNDED
        async with engine_of(own_settings, stores) as engine:
            again = granted(await redeem(engine, batch_id, 20))
    assert len(after_copy) == 20
    assert after_copy.isdisjoint(again)


async def test_the_bound_counts_redemptions_after_a_restart_too(own_settings: Settings, own_redis: RedisServer) -> None:
    """Not entries, of which each has many: what is lost later would exceed what is quarantined."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 400)
        async with engine_of(own_settings, stores) as engine:
            given = granted(await redeem(engine, batch_id, 40))
            own_redis.kill9()
            own_redis.start()
            await blessed_again(stores)
            assert await verdict(stores) == Verdict.RESTART
            await ready(engine)
            given |= granted(await redeem(engine, batch_id, 40))
            assert len(given) == 50
            await lose_data(own_redis, stores, engine)
            assert given.isdisjoint(granted(await redeem(engine, batch_id, 50)))


async def test_a_recovery_waits_for_the_one_that_holds_the_lock(own_settings: Settings, own_redis: RedisServer) -> None:
    async def opened() -> None:
        async with open_stores(own_settings):
            pass

    async with open_stores(own_settings) as stores:
        await make_batch(stores, 10)
        epoch = stores.redis.epoch
    own_redis.kill9()
    own_redis.start()
    async with own_connection(own_settings) as holder, own_connection(own_settings) as observer:
        await holder.execute("SELECT pg_advisory_lock($1)", RECOVERY_LOCK)
        waiting, tries = asyncio.create_task(opened(), name="waiting"), set[object]()
        # Two tries: after the first one it has decided to wait.
        while len(tries) < 2 and not waiting.done():
            tries |= {row["query_start"] for row in await observer.fetch(_TRIES)}
        assert not waiting.done()
        assert await observer.fetchval("SELECT epoch FROM installation") == epoch
        await holder.execute("SELECT pg_advisory_unlock($1)", RECOVERY_LOCK)
        await waiting
        assert await observer.fetchval("SELECT epoch FROM installation") == epoch + 1


_TRIES = """
SELECT query_start FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'SELECT pg_try_advisory_lock%'"""
