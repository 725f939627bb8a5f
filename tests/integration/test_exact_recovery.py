"""Exact recovery: what a lost Redis costs while every process that may know of its answers is heard of.

Each rule that design and model of recovery need has a test here with its name.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from issuer.contract.events import Redemption
from issuer.contract.keys import partition_keys, partition_of
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.engine.engine import Engine
from issuer.engine.sender import CallSender
from issuer.journal.journal import Journal, JournalHead
from issuer.journal.segments import are_recorded, read_segment, segments
from issuer.ledger.dead_letters import DeadLetter, store_dead_letters
from issuer.ledger.record import RecordResult, record_redemptions
from issuer.pools.top_up import top_up
from issuer.recovery import quarantine, rebuild
from issuer.recovery.aftermath import finish_recoveries
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.registration.registrar import Registrar
from issuer.registration.registrations import RegisteredProcess, find_open, register
from issuer.registration.replay import settle_dead
from issuer.settings import Settings
from issuer.storage.lineage import FencedOffError
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.recovery import (
    CLIENT,
    blessed_again,
    crashing_engine_of,
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

ONE_EACH: dict[str, object] = {"maxpercustomer": 1}


async def flush(server: RedisServer, stores: GuardedStores, engine: Engine) -> None:
    with server.client() as client:
        client.flushall()
    await blessed_again(stores)
    await top_up(stores)
    await ready(engine)


@pytest.mark.parametrize("lose", [lose_data, flush])
async def test_a_lost_redis_costs_nothing_while_all_processes_live(
    journal_settings: Settings, own_redis: RedisServer, lose: Any
) -> None:
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200, ONE_EACH)
        async with engine_of(journal_settings, stores) as engine:
            ref, customer = engine.pool_ref(batch_id, CLIENT), uuid.uuid4().bytes
            first = await engine.redeem(ref, customer, idempotency_key="k")
            await redeem(engine, batch_id, 9)
            await drain(stores)
            # An idle system first: everything is in the ledger.
            await lose(own_redis, stores, engine)
            assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.EXACT, [])
            await redeem(engine, batch_id, 5)
            await lose(own_redis, stores, engine)
            assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.EXACT, [])
            assert await seqs(stores, "redemptions") == list(range(1, 16))
            assert await engine.redeem(ref, customer, idempotency_key="k") == Answer(Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
            assert [answer.code for answer in await redeem(engine, batch_id, 3)] == ["CODE16", "CODE17", "CODE18"]


async def test_close_answers_unavailable_to_everything_unanswered(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 20)
        async with engine_of(journal_settings, stores) as engine:
            with own_redis.client() as client:
                client.client_pause(60_000, all=False)
                asked = asyncio.create_task(redeem(engine, batch_id, 1))
                await asyncio.sleep(0)
                await engine.leave()
                client.client_unpause()
                (answer,) = await asked
            assert answer.outcome is Outcome.NOT_READY
            # Nothing is sent until the process is registered for another epoch.
            assert [answer.outcome for answer in await redeem(engine, batch_id, 1)] == [Outcome.NOT_READY]
            assert journal_settings.journals is not None
            (directory,) = journal_settings.journals.glob("*/")
            assert [list(read_segment(path)) for path in segments(directory)] == [[]]


@pytest.mark.long
async def test_replay_a_replayed_answer_is_a_receipt(
    journal_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """The process that granted it is lost with its disk, and another has answered it again."""
    other = journal_settings.model_copy(update={"journal_dir": tmp_path / "other"})
    async with open_stores(journal_settings) as stores:
        batch_id, customer = await make_batch(stores, 200), uuid.uuid4().bytes
        async with engine_of(other, stores) as engine:
            ref = engine.pool_ref(batch_id, CLIENT)
            async with crashing_engine_of(journal_settings, stores) as lost:
                first = await lost.redeem(ref, customer, idempotency_key="k")
            assert journal_settings.journals is not None
            shutil.rmtree(journal_settings.journals)
            again = await engine.redeem(ref, customer, idempotency_key="k")
            assert again == Answer(Outcome.REPLAYED, first.code)
            await lose_data(own_redis, stores, engine)
            assert await seqs(stores, "redemptions") == [1]
            assert await engine.redeem(ref, customer, idempotency_key="k") == again


async def issue_and_crash(settings: Settings) -> UUID:
    """Issue five codes in a process that is killed. Return the batch."""
    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with crashing_engine_of(settings, stores) as engine:
            await redeem(engine, batch_id, 5)
    return batch_id


@pytest.mark.long
async def test_disk_a_registration_is_settled_only_with_its_own_journal(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    assert journal_settings.journals is not None
    batch_id = await issue_and_crash(journal_settings)
    shutil.rmtree(journal_settings.journals)
    own_redis.restart_empty()
    async with open_stores(journal_settings) as stores:
        assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.BOUNDED, list(range(1, 51)))
        # A lost fact has a serial up to the bound above the highest known one: none of them is given again.
        state = partition_keys(partition_of(batch_id, stores.redis.partitions)).state
        assert int(await stores.redis.client.hget(state, "serial") or 0) >= 50
        async with engine_of(journal_settings, stores):
            assert len(await find_open(stores.postgres, 0, 1)) == 1


async def test_lock_the_journal_of_a_living_process_is_left_to_it(
    journal_settings: Settings, stores: GuardedStores
) -> None:
    assert journal_settings.journals is not None
    installation = stores.incarnations.installation_id
    journal = Journal(journal_settings.journals, installation)
    await register_for(stores, RegisteredProcess(journal.id, has_journal=True))
    await settle_dead(journal_settings, installation)
    assert len(await find_open(stores.postgres, 0, 1)) == 1
    journal.close()
    await settle_dead(journal_settings, installation)
    assert await find_open(stores.postgres, 0, 1) == []


async def test_frozen_a_process_that_replays_a_journal_keeps_it_from_no_recovery(
    journal_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in front of the first receipt, as when it is frozen there, and continues behind the other's recovery."""
    await issue_and_crash(journal_settings)
    own_redis.restart_empty()
    reached, thawed = asyncio.Event(), asyncio.Event()

    async def freeze(*args: Any) -> bool:
        if not reached.is_set():
            reached.set()
            await thawed.wait()
            return False
        return await are_recorded(*args)

    monkeypatch.setattr("issuer.registration.replay.are_recorded", freeze)
    connection = await asyncpg.connect(journal_settings.database_url.get_secret_value())
    installation = UUID(bytes=(await connection.fetchval("SELECT id FROM installation")).bytes)
    frozen = asyncio.create_task(settle_dead(journal_settings, installation))
    await reached.wait()
    async with open_stores(journal_settings) as stores:
        assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.EXACT, [])
        assert await seqs(stores, "redemptions") == [1, 2, 3, 4, 5]
        written = "SELECT array_agg(xmin::text ORDER BY seq) FROM redemptions"
        before = await connection.fetchval(written)
        thawed.set()
        with pytest.raises(FencedOffError):
            await frozen
        assert await connection.fetchval(written) == before
    await connection.close()


async def register_for(stores: Stores, process: RegisteredProcess) -> None:
    blessed = stores.incarnations.blessed
    assert blessed is not None
    async with stores.postgres.acquire() as connection:
        assert await register(connection, process, blessed.epoch)


@pytest.mark.long
async def test_boot_a_journal_of_an_earlier_boot_is_replayed_and_settles_nothing(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    assert journal_settings.journals is not None
    await issue_and_crash(journal_settings)
    (head,) = journal_settings.journals.glob("*/head")
    head.write_bytes(replace(JournalHead.from_json(head.read_bytes()), boot_id="an earlier boot").to_json())
    own_redis.restart_empty()
    async with open_stores(journal_settings) as stores:
        assert await verdict(stores) == Verdict.BOUNDED
        assert await seqs(stores, "redemptions") == list(range(1, 6))
        assert await seqs(stores, "quarantined") == list(range(6, 56))


async def test_append_what_cannot_be_appended_is_not_answered(
    journal_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(journal_settings, stores) as engine:
            given = await redeem(engine, batch_id, 5)
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", full)
                assert [answer.outcome for answer in await redeem(engine, batch_id, 1, "k")] == [Outcome.NOT_READY]
                # Registered again, as a process without a journal, and it continues.
                await ready(engine)
            given += await redeem(engine, batch_id, 1)
            await lose_data(own_redis, stores, engine)
            # What was answered before is in the journal; what was answered without one only the ledger could know.
            assert await verdict(stores) == Verdict.BOUNDED
            assert await seqs(stores, "redemptions") == list(range(1, 6))
            assert await seqs(stores, "quarantined") == list(range(6, 56))
    assert [answer.code for answer in given] == ["CODE1", "CODE2", "CODE3", "CODE4", "CODE5", "CODE7"]


async def test_regtx_no_process_registers_behind_a_fence(stores: GuardedStores) -> None:
    blessed = stores.incarnations.blessed
    assert blessed is not None
    async with stores.postgres.acquire() as connection, stores.postgres.acquire() as fence:
        async with connection.transaction():
            assert await register(connection, RegisteredProcess(), blessed.epoch)
            # The fence waits for the registration, and the recovery behind it finds the process.
            fencing = asyncio.create_task(fence.execute("UPDATE installation SET epoch = epoch + 1, run_id = NULL"))
            while not await stores.postgres.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not fencing.done()
        await fencing
        assert not await register(connection, RegisteredProcess(), blessed.epoch)
        assert await stores.postgres.fetchval("SELECT count(*) FROM registrations WHERE process <> 'recovery'") == 1


async def test_regtx_a_process_registers_for_the_epoch_that_a_recovery_has_begun(
    journal_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first recovery is stopped before it blesses: nothing was answered in its epoch, and the process says so."""
    settings = journal_settings.model_copy(update={"journal": "off"})
    rebuilds, ready_within = rebuild.rebuild_partitions, []
    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(settings, stores) as engine:
            blessed = stores.incarnations.blessed
            assert blessed is not None

            async def stops(*args: Any) -> None:
                epoch = await stores.postgres.fetchval("SELECT epoch FROM installation")
                async with asyncio.timeout(30):
                    while not await find_open(stores.postgres, epoch - 1, epoch):
                        await asyncio.sleep(0.01)
                ready_within.append(engine.is_ready)
                if len(ready_within) == 1:
                    raise RedisUnavailableError("stopped")
                await rebuilds(*args)

            monkeypatch.setattr(rebuild, "rebuild_partitions", stops)
            await flush(own_redis, stores, engine)
            assert ready_within == [False, False]
            assert [answer.outcome for answer in await redeem(engine, batch_id, 1)] == [Outcome.GRANTED]
            opened = await find_open(stores.postgres, 0, 2**62)
            assert [found.epoch for found in opened] == [blessed.epoch, blessed.epoch + 2]


async def test_a_process_takes_no_request_before_it_is_connected(
    journal_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has registered, and its connection to Redis takes a moment longer."""
    opens, opening, may_open = CallSender._open, asyncio.Event(), asyncio.Event()

    async def open_late(sender: CallSender) -> None:
        if sender.epoch:
            opening.set()
            await may_open.wait()
        await opens(sender)

    monkeypatch.setattr(CallSender, "_open", open_late)
    async with open_stores(journal_settings) as stores:
        engine = Engine(journal_settings, stores.incarnations)
        await engine.start()
        registrar = Registrar(journal_settings, stores.postgres, stores.incarnations, engine)
        async with registrar.registered():
            waiting = asyncio.create_task(registrar.wait_for_start())
            await asyncio.wait_for(opening.wait(), 30)
            assert not waiting.done()
            may_open.set()
            await waiting
            assert engine.is_ready
        await engine.aclose()


async def record(stores: Stores, batch_id: UUID, seq: int, serial: int, epoch: int = 1) -> RecordResult:
    """Record a redemption as the worker does that finds its event in an old stream."""
    pool_id = await stores.postgres.fetchval("SELECT id FROM pools WHERE batch_id = $1", batch_id)
    event = Redemption(
        pool_id, seq, f"CODE{seq}", uuid.uuid4(), 1_700_000_000_000, uuid.uuid4(), None, 0, epoch, serial
    )
    async with stores.postgres.acquire() as connection, connection.transaction():
        return await record_redemptions(connection, [event])


async def test_void_what_no_caller_received_is_issued_again_and_never_recorded(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 20)
        async with engine_of(journal_settings, stores) as engine:
            await redeem(engine, batch_id, 3)
            await drain(stores)
            # Seqs 4 and 6 were granted and no reply arrived; 5 was answered by a process that is heard of.
            await record(stores, batch_id, 5, 5)
            await flush(own_redis, stores, engine)
            assert (await verdict(stores), await seqs(stores, "void_seqs")) == (Verdict.EXACT, [4])
            for seq in (4, 6):
                late = await record(stores, batch_id, seq, seq)
                assert (late.inserted, late.void, late.rejected, late.anomalies) == (0, 1, [], 0)
            assert await stores.postgres.fetchval("SELECT sum(refused) FROM epoch_bases") == 2
            await finish_recoveries(stores)
            given = await redeem(engine, batch_id, 15)
            assert [answer.code for answer in given] == [f"CODE{seq}" for seq in (*range(6, 21), 4)][:15]
            (last, *none) = await redeem(engine, batch_id, 2)
            assert (last.code, none[0].outcome) == ("CODE4", Outcome.SOLD_OUT)
        assert await seqs(stores, "redemptions") == [1, 2, 3, *range(5, 22)]
        assert await stores.postgres.fetchval("SELECT total FROM pools") == 21


@pytest.mark.long
async def test_a_loss_behind_a_failover_of_postgres_or_an_unreadable_event_is_never_exact(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    """A standby that lagged may have forgotten a process that is not heard of, and what an event had is not known."""
    async with open_stores(journal_settings) as stores:
        await make_batch(stores, 200)
        await stores.postgres.execute("UPDATE installation SET timeline = '00000000'")
        own_redis.restart_empty()
        await blessed_again(stores)
        assert await verdict(stores) == Verdict.BOUNDED
        await finish_recoveries(stores)
        held = "SELECT count(*) FROM quarantined WHERE released_at IS NULL"
        assert await stores.postgres.fetchval(held) == 50
        # The one that was blessed now is a known one.
        own_redis.restart_empty()
        await blessed_again(stores)
        assert (await verdict(stores), await stores.postgres.fetchval(held)) == (Verdict.EXACT, 50)
        assert await seqs(stores, "void_seqs") == []
        async with stores.postgres.acquire() as connection:
            await store_dead_letters(connection, [DeadLetter(0, "1-1", 1, None, None, "unreadable", [b"n", b"3"])])
        own_redis.restart_empty()
        await blessed_again(stores)
        assert await verdict(stores) == Verdict.BOUNDED


async def test_carry_a_registration_is_settled_when_nothing_of_its_epoch_is_left(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(journal_settings, stores) as engine:
            await redeem(engine, batch_id, 5)
            await kill_unheard(stores)
            own_redis.kill9()
            own_redis.start()
            await blessed_again(stores)
            assert await verdict(stores) == Verdict.RESTART
            # Redis has less than an old primary granted: the serial is assigned again, so the event is void.
            late = await record(stores, batch_id, 6, 6)
            assert (late.inserted, late.void) == (0, 1)
            await finish_recoveries(stores)
            assert len(await find_open(stores.postgres, 0, 1)) == 1
            await drain(stores)
            await finish_recoveries(stores)
            assert await find_open(stores.postgres, 0, 1) == []
            await ready(engine)
            await flush(own_redis, stores, engine)
            assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.EXACT, [])


async def test_carry_an_open_registration_of_an_epoch_before_a_restart_counts_in_a_loss(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(journal_settings) as stores:
        await make_batch(stores, 200)
        await kill_unheard(stores)
        own_redis.kill9()
        own_redis.start()
        await blessed_again(stores)
        assert await verdict(stores) == Verdict.RESTART
        own_redis.restart_empty()
        await blessed_again(stores)
        assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.BOUNDED, list(range(1, 51)))


async def test_hearall_a_recovery_decides_after_every_living_process_has_settled(
    journal_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    decide, settle = quarantine.decide, Registrar._settle

    async def decides(*args: Any, **options: Any) -> Any:
        order.append("decided")
        return await decide(*args, **options)

    async def settles_slowly(registrar: Registrar) -> None:
        # Longer than two heartbeats; it reports meanwhile, as a process that replays a large journal does.
        for _ in range(5):
            await asyncio.sleep(journal_settings.heartbeat_ms / 1000)
        await settle(registrar)
        order.append("settled")

    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(journal_settings, stores) as engine:
            await redeem(engine, batch_id, 5)
            monkeypatch.setattr(quarantine, "decide", decides)
            monkeypatch.setattr(Registrar, "_settle", settles_slowly)
            await flush(own_redis, stores, engine)
            assert (order, await verdict(stores)) == (["settled", "decided"], Verdict.EXACT)


@pytest.mark.long
async def test_keep_rows_that_are_recorded_late_come_to_redis(
    journal_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """A process that has not the journal recovers, and the journal comes back afterwards."""
    elsewhere = journal_settings.model_copy(update={"journal_dir": tmp_path / "elsewhere"})
    async with open_stores(elsewhere) as stores:
        batch_id, customer = await make_batch(stores, 200, ONE_EACH), uuid.uuid4().bytes
        async with crashing_engine_of(journal_settings, stores) as engine:
            ref = engine.pool_ref(batch_id, CLIENT)
            first = await engine.redeem(ref, customer, idempotency_key="k")
        own_redis.restart_empty()
        await blessed_again(stores)
        assert (await verdict(stores), await seqs(stores, "quarantined")) == (Verdict.BOUNDED, list(range(1, 51)))
        await top_up(stores)
        async with engine_of(elsewhere, stores) as engine:
            await settle_dead(journal_settings, stores.incarnations.installation_id)
            assert await seqs(stores, "late_rows") == [1]
            await finish_recoveries(stores)
            assert await engine.redeem(ref, customer, idempotency_key="k") == Answer(Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
        assert await seqs(stores, "late_rows") == []
        # Everything that was answered is known by now.
        assert await stores.postgres.fetchval("SELECT count(*) FROM quarantined WHERE released_at IS NULL") == 0


@pytest.mark.long
async def test_all_a_quarantine_ends_when_all_registrations_are_settled(
    journal_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    hosts = [journal_settings.model_copy(update={"journal_dir": tmp_path / host}) for host in ("a", "b")]
    elsewhere = journal_settings.model_copy(update={"journal": "off"})
    async with open_stores(elsewhere) as stores:
        batch_id = await make_batch(stores, 100)
        for host in hosts:
            async with crashing_engine_of(host, stores) as engine:
                await redeem(engine, batch_id, 1)
        own_redis.restart_empty()
        await blessed_again(stores)
        released = []
        for host in hosts:
            await settle_dead(host, stores.incarnations.installation_id)
            await finish_recoveries(stores)
            released.append(await stores.postgres.fetchval("SELECT count(released_at) FROM quarantined"))
        assert released == [0, 48]
        assert await seqs(stores, "redemptions") == [1, 2]
        await top_up(stores)
        async with engine_of(elsewhere, stores) as engine:
            codes = [answer.code for answer in await redeem(engine, batch_id, 50)]
            await drain(stores)
            codes += [answer.code for answer in await redeem(engine, batch_id, 48)]
    assert codes == [f"CODE{seq}" for seq in (*range(51, 101), *range(3, 51))]
