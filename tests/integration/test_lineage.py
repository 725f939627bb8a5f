"""A Postgres that went back in time is detected before anything is recorded, acknowledged or recovered on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from issuer.batches.batch import BatchChanges
from issuer.batches.rules import parse_rules
from issuer.batches.store import change_batch
from issuer.contract.keys import partition_keys
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.pools.top_up import top_up
from issuer.recovery import rebuild, recovery
from issuer.recovery.doctor import examine
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.recovery.status import read_status
from issuer.settings import Settings
from issuer.storage.lineage import IncidentError, TokenKind, begin_incident, new_token, remove_expired_tokens
from issuer.storage.postgres import close_pool, connect_pool
from issuer.storage.redis_link import NotReadyError
from sync_worker.reader import StreamReader
from sync_worker.worker import Worker
from sync_worker.writer import LedgerWriter
from tests.support.recovery import blessed_again, drain, engine_of, make_batch, redeem, seqs, verdict
from tests.support.rollback import copy_tables, go_back
from tests.support.servers import RedisServer

WENT_BACK = "Postgres went back in time"


def codes(answers: list[Answer]) -> list[str]:
    return [answer.code for answer in answers if answer.outcome is Outcome.GRANTED and answer.code]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def working(settings: Settings, stores: GuardedStores) -> AsyncIterator[Worker]:
    """A worker's loop in this process, with a lineage of its own only as far as `stores` has one."""
    stopping = asyncio.Event()
    reader = StreamReader(settings, stores.incarnations, min_idle_ms=60_000)
    worker = Worker(reader, LedgerWriter(settings, stores.incarnations.lineage), stopping)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        stopping.set()
        await task


async def test_an_incident_begins_before_a_worker_records_or_a_recovery_decides(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    """Postgres loses commits whose events were acknowledged. A worker that starts afterwards records nothing."""
    async with open_stores(own_settings) as stores, engine_of(own_settings, stores) as engine:
        batch_id = await make_batch(stores, 400)
        given = codes(await redeem(engine, batch_id, 20))
        await drain(stores)
        await copy_tables(stores.postgres)
        given += codes(await redeem(engine, batch_id, 15))
        await drain(stores)
        await go_back(stores.postgres)
        given += codes(await redeem(engine, batch_id, 10))
        # A process that has met no token yet: Redis has one.
        async with open_stores(own_settings) as other, working(own_settings, other) as worker:
            await until(lambda: worker.progress.error)
            assert WENT_BACK in worker.progress.error
            await until(lambda: stores.incarnations.incident)
        assert len(await seqs(stores, "redemptions")) == 20
        assert await backlog(stores) == 10

        # Codes are issued meanwhile; nothing else changes in Redis.
        given += codes(await redeem(engine, batch_id, 5))
        assert len(given) == 50
        with pytest.raises(NotReadyError, match=WENT_BACK):
            await change_batch(stores, batch_id, BatchChanges(rules=parse_rules({"maxpercustomer": 5})), actor="test")
        problems = (await read_status(own_settings)).problems
        assert any(WENT_BACK in problem for problem in problems)
        (check,) = [check for check in await examine(own_settings, stores.postgres) if check.name == "incident"]
        assert (check.ok, WENT_BACK in check.found) == (False, True)

        own_redis.kill9()
        own_redis.start()
        with pytest.raises(IncidentError, match=WENT_BACK):
            await blessed_again(stores)

        # An operator continues with this Postgres: what it lost is among the quarantined codes.
        report = await stores.guardian.check(RecoveryOptions(restored=True))
        assert report is not None
        await until(lambda: not stores.incarnations.incident)
        await top_up(stores)
        again: list[str] = []
        async with asyncio.timeout(20):
            while not again:
                again = codes(await redeem(engine, batch_id, 30))
        assert set(again) & set(given) == set()


async def backlog(stores: GuardedStores) -> int:
    keys = [partition_keys(partition).state for partition in range(stores.redis.partitions)]
    return sum([int(await stores.redis.client.hget(key, "backlog") or 0) for key in keys])


async def test_a_process_and_a_redis_know_what_postgres_has_forgotten(own_settings: Settings) -> None:
    """Nothing is redeemed: the token that each process writes when it begins to use Redis is enough."""
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 10)
        await copy_tables(stores.postgres)
        async with open_stores(own_settings) as other:
            await until(lambda: other.incarnations.lineage.last)
            await go_back(stores.postgres)
            await until(lambda: other.incarnations.incident)
            assert "a process on" in str(other.incarnations.incident)
        # If the data set is lost meanwhile, Redis has no token: the process objects to the recovery.
        await stores.postgres.execute("UPDATE installation SET run_id = NULL")
        await stores.incarnations.refresh()
        with pytest.raises(IncidentError, match=WENT_BACK):
            await stores.guardian.check()
        await stores.guardian.check(RecoveryOptions(restored=True))
        assert await stores.postgres.fetchval("SELECT incident FROM installation") is None


@pytest.mark.parametrize(
    ("module", "step"), [(recovery, "inspect_pools"), (rebuild, "drain_streams"), (rebuild, "bless_partitions")]
)
async def test_an_incident_that_begins_during_a_recovery_ends_it(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str
) -> None:
    """A process objects when the recovery has read the installation: before the fence, the decision, the blessing."""
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 10)
    own_redis.kill9()
    own_redis.wipe()
    own_redis.start()
    postgres = await connect_pool(own_settings, size=1)
    real = getattr(module, step)

    async def objects(*args: Any) -> Any:
        await begin_incident(postgres, "found something")
        return await real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(module, step, objects)
        with pytest.raises(IncidentError):
            async with open_stores(own_settings):
                pass
    assert await postgres.fetchval("SELECT run_id FROM installation WHERE epoch > 1") is None
    await close_pool(postgres)
    with pytest.raises(IncidentError, match="found something"):
        async with open_stores(own_settings):
            pass
    async with open_stores(own_settings, wait_until_ready=False) as stores:
        assert len(await seqs(stores, "quarantined")) == (10 if step == "bless_partitions" else 0)
        await stores.guardian.check(RecoveryOptions(restored=True))
        assert (await verdict(stores), len(await seqs(stores, "quarantined"))) == ("loss", 10)


async def test_tokens_are_kept_for_as_long_as_they_may_be_met(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        async with stores.postgres.acquire() as connection:
            for kind, days in (("record", 6), ("record", 8), ("fence", 89), ("fence", 91)):
                token = await new_token(connection, TokenKind(kind))
                await connection.execute(
                    "UPDATE lineage SET created_at = now() - $2::int * interval '1 day' WHERE token = $1", token, days
                )
        assert await remove_expired_tokens(stores.postgres, 1) == 1
        assert await remove_expired_tokens(stores.postgres, 10) == 1
        assert await remove_expired_tokens(stores.postgres, 10) == 0
        left = await stores.postgres.fetch(
            "SELECT kind FROM lineage WHERE created_at < now() - interval '1 day' ORDER BY created_at"
        )
        assert [row["kind"] for row in left] == ["fence", "record"]
