"""Older data that were put back: on a restarted server, under the same run_id, and when only a journal knows better."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from issuer.batches.batch import BatchChanges
from issuer.batches.store import change_batch
from issuer.contract.keys import partition_keys
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.ledger.reconcile import reconcile
from issuer.pools.top_up import top_up
from issuer.recovery.inspection import PartitionState, Verdict, inspect_partitions
from issuer.recovery.lock import HeldLink, recovery_lock
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.recovery.recovery import Recovery, RecoveryOptions
from issuer.settings import Settings
from issuer.storage.redis_link import CommandSender, Link
from tests.support.recovery import (
    blessed_again,
    crashing_engine_of,
    drain,
    engine_of,
    make_batch,
    ready,
    redeem,
    until,
    verdict,
)
from tests.support.servers import RedisServer

pytestmark = pytest.mark.long


def granted(answers: list[Answer]) -> set[str]:
    return {answer.code for answer in answers if answer.outcome is Outcome.GRANTED}


async def beats_raised(stores: GuardedStores) -> None:
    """Wait until the beats are higher than now: as they are when data are copied and nothing is redeemed after that."""
    before = list(stores.incarnations.floors.beats)
    await until(lambda: all(now > was for now, was in zip(stores.incarnations.floors.beats, before, strict=True)))


def put_back(server: RedisServer, copy: Path) -> None:
    server.kill9()
    server.wipe()
    shutil.copytree(copy, server.directory / "appendonlydir")
    server.start()


@pytest.mark.parametrize("is_idle", [pytest.param(False, marks=pytest.mark.long), True])
async def test_a_server_whose_data_went_back_under_its_run_id_is_recovered(
    own_settings: Settings, own_redis: RedisServer, tmp_path: Path, is_idle: bool
) -> None:
    """REPLICAOF a replica that was separated before, and back. Idle: nothing but a pause came after the separation."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(own_settings, stores) as engine:
            await redeem(engine, batch_id, 5)
            await drain(stores)
            with RedisServer(tmp_path / "replica") as replica, own_redis.client() as primary, replica.client() as copy:
                copy.execute_command("REPLICAOF", "127.0.0.1", str(own_redis.port))
                await until(lambda: copy.info("replication").get("master_link_status") == "up")
                copy.execute_command("REPLICAOF", "NO", "ONE")
                second = set() if is_idle else granted(await redeem(engine, batch_id, 20))
                if is_idle:
                    await change_batch(stores, batch_id, BatchChanges(paused=True), actor="test")
                    await beats_raised(stores)
                primary.execute_command("REPLICAOF", "127.0.0.1", str(replica.port))
                await until(lambda: primary.info("replication").get("master_link_status") == "up")
                primary.execute_command("REPLICAOF", "NO", "ONE")
            await blessed_again(stores)
            await top_up(stores)
            await ready(engine)
            third = await redeem(engine, batch_id, 20)
        rows = await stores.postgres.fetch("SELECT epoch, verdict FROM incarnations")
        assert [tuple(row) for row in rows] == [(2, Verdict.BOUNDED)], "the same run_id, a new epoch"
        assert {answer.outcome for answer in third} == {Outcome.PAUSED if is_idle else Outcome.GRANTED}
        assert granted(third).isdisjoint(second)


@pytest.mark.parametrize("changed", ["redeemed with the clock ahead", "paused"])
async def test_data_put_back_are_a_loss_although_neither_ledger_nor_clock_shows_it(
    own_settings: Settings, own_redis: RedisServer, tmp_path: Path, changed: str
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        ahead_ms = int(time.time() * 1000) + 3_600_000
        for partition in range(stores.redis.partitions):
            await stores.redis.client.hset(partition_keys(partition).state, "clock", str(ahead_ms))
        async with engine_of(own_settings, stores) as engine:
            await redeem(engine, batch_id, 10)
            shutil.copytree(own_redis.directory / "appendonlydir", tmp_path / "copy")
            second = set()
            if changed == "paused":
                await change_batch(stores, batch_id, BatchChanges(paused=True), actor="test")
                await beats_raised(stores)
            else:
                second = granted(await redeem(engine, batch_id, 20))
            put_back(own_redis, tmp_path / "copy")
            await blessed_again(stores)
            await top_up(stores)
            await ready(engine)
            third = await redeem(engine, batch_id, 20)
        assert await verdict(stores) == Verdict.BOUNDED
        assert {answer.outcome for answer in third} == {Outcome.PAUSED if changed == "paused" else Outcome.GRANTED}
        assert granted(third).isdisjoint(second)


async def test_data_put_back_are_a_loss_when_only_the_journal_of_a_dead_process_shows_it(
    journal_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """The worker was behind, and no process is alive. A replay is a receipt as well, and the serials add up."""
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with crashing_engine_of(journal_settings, stores) as engine:
            first = granted(await redeem(engine, batch_id, 10, "key"))
            shutil.copytree(own_redis.directory / "appendonlydir", tmp_path / "copy")
            second = granted(await redeem(engine, batch_id, 20))
        # As if the process had been cut off from Postgres.
        await stores.postgres.execute("UPDATE registrations SET serials = '{}', beats = '{}'")
    put_back(own_redis, tmp_path / "copy")
    async with open_stores(journal_settings) as stores:
        assert await verdict(stores) == Verdict.EXACT
        await top_up(stores)
        async with engine_of(journal_settings, stores) as engine:
            third = granted(await redeem(engine, batch_id, 20))
        assert first | second | third == {f"CODE{seq}" for seq in range(1, 51)}
        await drain(stores)
        result = await reconcile(stores)
        assert result.holds, result.to_json()
        (partition,) = [found for found in result.partitions if found.recorded]
        assert (partition.recorded, partition.quarantined, partition.serial) == (50, 0, 50)


async def test_data_that_grow_while_they_are_compared_have_not_gone_back(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery that finds a server which another process has blessed meanwhile, and on which codes are issued."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        link = Link(own_settings, None)
        await link.open()
        async with engine_of(own_settings, stores) as engine:

            async def read_while_issuing(sender: CommandSender, partitions: int) -> list[PartitionState]:
                states = await inspect_partitions(sender, partitions)
                await redeem(engine, batch_id, 1)
                return states

            monkeypatch.setattr("issuer.recovery.recovery.inspect_partitions", read_while_issuing)
            async with recovery_lock(own_settings) as connection:
                held, floors = HeldLink(link, connection), stores.incarnations.floors
                assert await Recovery(own_settings, connection, held, RecoveryOptions(), floors).run() is None
        await link.aclose()
        assert max(floors.serials) > 0
