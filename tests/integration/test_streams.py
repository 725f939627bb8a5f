"""Streams that were changed by hand or by a later version: nothing is lost, doubled, or counted out of the bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from issuer.contract import events
from issuer.contract.events import UndecodableEventError
from issuer.contract.keys import GROUP, partition_keys, partition_of
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.ledger import entries
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.lineage import IncidentError
from issuer.storage.stores import Stores
from issuer.storage.task_rows import TaskRows
from sync_worker.maintenance.tasks import MaintenanceTasks
from sync_worker.reader import NEWER_CONSUMER, StreamReader
from sync_worker.worker import Worker, WorkerProgress
from sync_worker.writer import LedgerWriter
from tests.support.recovery import blessed_again, drain, engine_of, lose_data, make_batch, ready, redeem, seqs, verdict
from tests.support.servers import RedisServer
from tests.support.worker_process import eventually


@asynccontextmanager
async def working(stores: Stores, *, min_idle_ms: int = 60_000) -> AsyncIterator[Worker]:
    """Record what is in the streams until the block ends."""
    stopping = asyncio.Event()
    reader = StreamReader(stores.settings, stores.incarnations, min_idle_ms=min_idle_ms)
    worker = Worker(reader, LedgerWriter(stores.settings, stores.incarnations.lineage), stopping)
    task = asyncio.create_task(worker.run(), name="worker")
    try:
        yield worker
    finally:
        stopping.set()
        await task


async def recorded(stores: Stores, count: int) -> None:
    async def condition() -> bool:
        return await seqs(stores, "redemptions") == list(range(1, count + 1))

    await eventually(condition, f"{count} redemptions in the ledger")


def granted(answers: list[Answer]) -> list[str]:
    return [answer.code for answer in answers if answer.outcome is Outcome.GRANTED]


@pytest.mark.parametrize("what", ["group", "stream"])
async def test_a_group_that_is_destroyed_while_redis_runs_is_created_again(
    settings: Settings, stores: Stores, what: str
) -> None:
    batch_id = await make_batch(stores, 100)
    stream = partition_keys(partition_of(batch_id, stores.redis.partitions)).stream
    async with engine_of(settings, stores) as engine, working(stores):
        await redeem(engine, batch_id, 10)
        await recorded(stores, 10)
        if what == "group":
            await redeem(engine, batch_id, 5)
            await stores.redis.client.xgroup_destroy(stream, GROUP)
        else:
            await stores.redis.client.delete(stream)
            await redeem(engine, batch_id, 5)
        await redeem(engine, batch_id, 5)
        await recorded(stores, 20)
    assert await stores.postgres.fetchval("SELECT count(*) FROM anomalies") == 0


async def test_events_of_a_later_version_stay_and_count_until_that_version_records_them(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own_settings.model_copy(update={"max_backlog": 20})
    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 100)
        stream = partition_keys(partition_of(batch_id, stores.redis.partitions)).stream
        async with engine_of(settings, stores) as engine:
            with monkeypatch.context() as older:
                older.setattr(events, "EVENT_FORMAT", events.EVENT_FORMAT - 1)
                async with working(stores) as worker:
                    assert len(granted(await redeem(engine, batch_id, 15))) == 15
                    async with asyncio.timeout(30):
                        while not worker.progress.newer:
                            await asyncio.sleep(0.01)
                    answers = await redeem(engine, batch_id, 10)
                    assert len(granted(answers)) == 5
                    assert answers[-1].outcome is Outcome.BACKLOG_FULL
                assert await seqs(stores, "redemptions") == await seqs(stores, "dead_letters") == []
                pending = await stores.redis.client.xpending(stream, GROUP)
                assert NEWER_CONSUMER.encode() in {consumer["name"] for consumer in pending["consumers"]}
                # Nor may this version recover, which would quarantine what the later one can read.
                with pytest.raises(IncidentError, match="later version"):
                    await stores.guardian.check(RecoveryOptions(restored=True))
            async with working(stores, min_idle_ms=0):
                await recorded(stores, 20)


async def test_dead_letters_that_cannot_be_read_come_on_top_of_the_bound(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own_settings.model_copy(update={"max_backlog": 20})

    def refuse(*_: object) -> None:
        raise UndecodableEventError("a test")

    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 300)
        given: list[str] = []
        async with engine_of(settings, stores) as engine:
            for _ in range(3):
                given += granted(await redeem(engine, batch_id, 15))
                with monkeypatch.context() as unreadable:
                    unreadable.setattr(entries, "decode_columns", refuse)
                    await drain(stores)
            assert await stores.postgres.fetchval("SELECT count(*) FROM dead_letters WHERE seq IS NULL") >= 3
            await lose_data(own_redis, stores, engine)
            again = granted(await redeem(engine, batch_id, 5))
        assert (len(given), len(again)) == (45, 5)
        assert set(given).isdisjoint(again)
        assert await seqs(stores, "quarantined") == list(range(1, 20 + 45 + 1))


async def test_a_stream_that_was_cut_by_hand_is_noticed_and_is_a_loss(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 400)
        stream = partition_keys(partition_of(batch_id, stores.redis.partitions)).stream
        async with engine_of(own_settings, stores) as engine:
            given = granted(await redeem(engine, batch_id, 50))
            await stores.redis.client.xtrim(stream, maxlen=0, approximate=False)
            tasks = MaintenanceTasks(stores, TaskRows(stores), "w", WorkerProgress())
            for _ in range(2):
                await tasks.lag()
            kinds = await stores.postgres.fetch("SELECT kind, detail ->> 'count' AS count FROM anomalies")
            assert [tuple(row) for row in kinds] == [("events_deleted", "50")]
            own_redis.kill9()
            own_redis.start()
            await blessed_again(stores)
            assert await verdict(stores) == Verdict.BOUNDED
            await ready(engine)
            assert await seqs(stores, "quarantined") == list(range(1, 51))
            again = granted(await redeem(engine, batch_id, 50))
        assert set(given).isdisjoint(again)
