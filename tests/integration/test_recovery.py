"""Recovery of a Redis server with the same data, older data or none. Each test has its own Redis server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from issuer.batches.revisions import push_batch
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.pools.top_up import top_up
from issuer.recovery import quarantine, rebuild
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.lineage import IncidentError
from issuer.storage.postgres import RECOVERY_LOCK, PostgresUnavailableError
from issuer.storage.redis_link import RedisUnavailableError
from tests.support.parameters import some_long
from tests.support.recovery import (
    CLIENT,
    SimulatedCrashError,
    blessed_again,
    drain,
    engine_of,
    kill_unheard,
    lose_data,
    make_batch,
    ready,
    redeem,
    seqs,
    verdict,
)
from tests.support.servers import RedisServer
from tests.support.worker_process import eventually


async def test_the_same_data_after_a_kill_are_a_restart(own_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 100, {"maxpercustomer": 1})
        async with engine_of(own_settings, stores) as engine:
            before = await redeem(engine, batch_id, 20)
            ref, customer = engine.pool_ref(batch_id, CLIENT), uuid.uuid4().bytes
            first = await engine.redeem(ref, customer, idempotency_key="k")
            own_redis.kill9()
            own_redis.start()
            await blessed_again(stores)
            await ready(engine)
            after = await redeem(engine, batch_id, 20)
            assert await engine.redeem(ref, customer, idempotency_key="k") == Answer(Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
        assert await verdict(stores) == Verdict.RESTART
        assert await seqs(stores, "quarantined") == []
        assert [a.code for a in (*before, first, *after)] == [f"CODE{i}" for i in range(1, 42)]


async def test_a_wiped_redis_quarantines_what_may_be_issued_and_rebuilds_from_the_ledger(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200, {"maxpercustomer": 1})
        async with engine_of(own_settings, stores) as engine:
            ref, customer = engine.pool_ref(batch_id, CLIENT), uuid.uuid4().bytes
            first = await engine.redeem(ref, customer, idempotency_key="k")
            await redeem(engine, batch_id, 9)
            await drain(stores)
            lost = await redeem(engine, batch_id, 5)
            await lose_data(own_redis, stores, engine)
            assert await engine.redeem(ref, customer, idempotency_key="k") == Answer(Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
            after = await redeem(engine, batch_id, 3)
        assert await verdict(stores) == Verdict.BOUNDED
        assert await seqs(stores, "redemptions") == list(range(1, 11))
        assert await seqs(stores, "quarantined") == list(range(11, 61))
        assert {a.code for a in lost}.isdisjoint({a.code for a in after})
        assert [(a.outcome, a.code) for a in after] == [(Outcome.GRANTED, f"CODE{i}") for i in (61, 62, 63)]


async def test_a_batch_that_cannot_be_read_keeps_no_other_closed_and_loses_nothing(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        bad, good = [await make_batch(stores, 200, {"maxpercustomer": 1}) for _ in range(2)]
        async with engine_of(own_settings, stores) as engine:
            customer, ref = uuid.uuid4().bytes, engine.pool_ref(bad, CLIENT)
            first = await engine.redeem(ref, customer, idempotency_key="k")
            assert [answer.outcome for answer in await redeem(engine, good, 3)] == [Outcome.GRANTED] * 3
            await drain(stores)
            rules = await stores.postgres.fetchval("SELECT rules::text FROM batches WHERE id = $1", bad)
            await stores.postgres.execute("UPDATE batches SET rules = '{\"nonsense\": 1}' WHERE id = $1", bad)
            await lose_data(own_redis, stores, engine)
            assert [answer.outcome for answer in await redeem(engine, good, 3)] == [Outcome.GRANTED] * 3
            assert (await engine.redeem(ref, customer)).outcome is Outcome.UNKNOWN_BATCH
            # Repaired, and pushed as the worker does: neither the kept answers nor the limits were lost.
            await stores.postgres.execute("UPDATE batches SET rules = $2::text::jsonb WHERE id = $1", bad, rules)
            await push_batch(stores, bad)
            await top_up(stores, thorough=True)
            assert await engine.redeem(ref, customer, idempotency_key="k") == Answer(Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
            (after,) = await redeem(engine, bad, 1)
            assert (after.outcome, after.code) == (Outcome.GRANTED, "CODE52")


async def test_two_losses_in_a_row_quarantine_twice(own_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        for _ in range(2):
            await kill_unheard(stores)
            own_redis.restart_empty()
            await blessed_again(stores)
        assert await seqs(stores, "quarantined") == list(range(1, 101))
        await top_up(stores)
        async with engine_of(own_settings, stores) as engine:
            assert [a.code for a in await redeem(engine, batch_id, 1)] == ["CODE101"]


STEPS = ("fence_partitions", "drain_streams", "decide", "rebuild_partitions", "bless_partitions")


@pytest.mark.parametrize(("step", "when"), some_long(product(reversed(STEPS), ("after", "before")), short=3))
async def test_a_recovery_that_crashes_at_any_step_is_continued(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    module = quarantine if step == "decide" else rebuild
    real: Callable[..., Awaitable[object]] = getattr(module, step)

    async def crashes(*args: object, **options: object) -> None:
        if when == "after":
            await real(*args, **options)
        raise SimulatedCrashError

    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(own_settings, stores) as engine:
            await redeem(engine, batch_id, 10)
    own_redis.restart_empty()
    with monkeypatch.context() as patched:
        patched.setattr(module, step, crashes)
        with pytest.raises(SimulatedCrashError):
            async with open_stores(own_settings):
                pass
    async with open_stores(own_settings) as stores:
        assert await seqs(stores, "quarantined") == list(range(1, 51))
        await top_up(stores)
        async with engine_of(own_settings, stores) as engine:
            assert [a.code for a in await redeem(engine, batch_id, 1)] == ["CODE51"]


async def test_a_recovery_without_its_lock_does_not_undo_the_next_one(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rebuild.bless_partitions
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pauses(*args: Any) -> None:
        reached.set()
        await go_on.wait()
        await real(*args)

    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
    own_redis.kill9()
    own_redis.start()
    with monkeypatch.context() as patched:
        patched.setattr(rebuild, "bless_partitions", pauses)
        first = asyncio.create_task(_open_and_close(own_settings), name="first")
        await reached.wait()
    async with open_stores(own_settings, wait_until_ready=False) as stores:
        await stores.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            RECOVERY_LOCK,
        )
        async with engine_of(own_settings, stores) as engine:
            go_on.set()
            with pytest.raises((RedisUnavailableError, PostgresUnavailableError)):
                await first
            assert [a.outcome for a in await redeem(engine, batch_id, 1)] == [Outcome.GRANTED]
            assert await stores.postgres.fetchval("SELECT count(*) FROM incarnations") == 2


async def _open_and_close(settings: Settings) -> None:
    async with open_stores(settings):
        pass


async def test_a_replaced_server_is_never_blessed_again(
    own_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    async with open_stores(own_settings) as stores, engine_of(own_settings, stores) as old:
        batch_id = await make_batch(stores, 200)
        with RedisServer(tmp_path / "other") as other:
            new_settings = own_settings.model_copy(update={"redis_url": SecretStr(other.url())})
            with pytest.raises(RedisUnavailableError, match="alive a moment ago"):
                async with open_stores(new_settings):
                    pass

            async def is_blessed() -> bool:
                # The stores that are open may note at any moment that the old server is alive.
                await stores.postgres.execute("UPDATE incarnations SET seen_at = now() - interval '1 hour'")
                with suppress(RedisUnavailableError):
                    async with open_stores(new_settings):
                        return True
                return False

            await eventually(is_blessed, "the new server is blessed")
            async with open_stores(new_settings) as new_stores:
                await top_up(new_stores)
                async with engine_of(new_settings, new_stores) as engine:
                    assert [a.code for a in await redeem(engine, batch_id, 1)] == ["CODE51"]
                await stores.incarnations.refresh()
                with pytest.raises(IncidentError, match="replaced"):
                    await stores.guardian.check()
                assert [a.outcome for a in await redeem(old, batch_id, 2)] == [Outcome.NOT_READY] * 2


async def test_an_announced_restore_is_a_loss_and_a_dry_run_changes_nothing(
    own_settings: Settings,
) -> None:
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 200)
        planned = await stores.guardian.check(RecoveryOptions(restored=True, dry_run=True))
        assert planned is not None
        assert [pool.quarantined for pool in planned.pools] == [50]
        assert await seqs(stores, "quarantined") == []
        done = await stores.guardian.check(RecoveryOptions(restored=True, margin=70))
        assert done is not None
        assert [(pool.quarantined, pool.issued_after) for pool in done.pools] == [(70, 70)]


@pytest.mark.long
async def test_processes_survive_a_postgres_without_its_tables(own_settings: Settings, own_redis: RedisServer) -> None:
    """It stands for a standby, a database before its migration, or a password that is refused for a while."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(own_settings, stores) as engine:
            for table in ("installation", "registrations"):
                await stores.postgres.execute(f"ALTER TABLE {table} RENAME TO {table}_renamed")
            own_redis.kill9()
            own_redis.start()
            async with asyncio.timeout(30):
                while "installation" not in stores.guardian.trouble:
                    await asyncio.sleep(0.01)
            assert [a.outcome for a in await redeem(engine, batch_id, 1)] == [Outcome.NOT_READY]
            for table in ("installation", "registrations"):
                await stores.postgres.execute(f"ALTER TABLE {table}_renamed RENAME TO {table}")
            await ready(engine)
            assert await verdict(stores) == Verdict.RESTART
            assert [a.outcome for a in await redeem(engine, batch_id, 1)] == [Outcome.GRANTED]
            async with asyncio.timeout(30):
                while not await stores.postgres.fetchval(
                    "SELECT true FROM registrations WHERE epoch = 2 AND process <> 'recovery'"
                ):
                    await asyncio.sleep(0.01)


async def test_a_server_that_evicts_is_refused(own_settings: Settings, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(IncidentError, match="noeviction"):
        async with open_stores(own_settings):
            pass
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
    async with open_stores(own_settings) as stores:
        assert stores.redis.epoch == 1
