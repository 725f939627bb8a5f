"""The options of a recovery, data of another installation, and a recovery that is frozen."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from pydantic import SecretStr

from issuer.pools.top_up import top_up
from issuer.recovery import rebuild
from issuer.recovery.doctor import Check, examine
from issuer.recovery.inspection import PartitionState, inspect_partitions
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.lineage import IncidentError, begin_incident
from issuer.storage.postgres import close_pool, connect_pool
from issuer.storage.redis_link import Link
from tests.support.databases import clone_database
from tests.support.environment import environment_of
from tests.support.recovery import CLIENT, SimulatedCrashError, engine_of, kill_unheard, make_batch, redeem, seqs
from tests.support.servers import PostgresServer, RedisServer

pytestmark = pytest.mark.long


@pytest.fixture
def other_settings(own_settings: Settings, postgres_server: PostgresServer) -> Iterator[Settings]:
    """The Postgres of another installation, configured with the Redis of `own_settings` by mistake."""
    url = clone_database(postgres_server)
    yield own_settings.model_copy(update={"database_url": SecretStr(url)})
    postgres_server.psql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


async def states(settings: Settings) -> list[PartitionState]:
    """Return what the partitions have, but for the beat and the token, which their owner writes meanwhile."""
    link = Link(settings, None)
    await link.open()
    try:
        found = await inspect_partitions(link, settings.partitions)
        return [{name: value for name, value in state.items() if name not in ("beat", "lineage")} for state in found]
    finally:
        await link.aclose()


async def test_the_redis_of_another_installation_is_not_changed(
    own_settings: Settings, other_settings: Settings
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 100)
        before = await states(own_settings)
        with pytest.raises(IncidentError, match="another installation"):
            async with open_stores(other_settings):
                pass
        async with open_stores(other_settings, wait_until_ready=False) as others:
            for options in (RecoveryOptions(restored=True), RecoveryOptions(margin=5), RecoveryOptions(dry_run=True)):
                with pytest.raises(IncidentError, match="another installation"):
                    await others.guardian.check(options)
        assert await states(own_settings) == before
        async with engine_of(own_settings, stores) as engine:
            assert [a.code for a in await redeem(engine, batch_id, 1)] == ["CODE1"]


async def test_the_doctor_reports_the_redis_of_another_installation(
    own_settings: Settings, other_settings: Settings
) -> None:
    async with open_stores(own_settings):
        pass
    with pytest.raises(IncidentError):
        async with open_stores(other_settings):
            pass
    for settings, ok in ((own_settings, True), (other_settings, False)):
        found = await doctor_on(settings, "installation")
        assert found.ok is ok
        assert ok or "the data of" in found.found


async def doctor_on(settings: Settings, name: str) -> Check:
    postgres = await connect_pool(settings, size=1)
    try:
        (found,) = [check for check in await examine(settings, postgres) if check.name == name]
    finally:
        await close_pool(postgres)
    return found


@pytest.mark.parametrize("options", [RecoveryOptions(restored=True), RecoveryOptions(rebuild=True)])
async def test_a_pool_whose_key_was_deleted_is_reported_and_rebuilt(
    own_settings: Settings, options: RecoveryOptions
) -> None:
    """Also where only windows and kept answers are to be rebuilt, because Redis has evicted keys."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 100)
        assert (await doctor_on(own_settings, "pools")).ok
        async with engine_of(own_settings, stores) as engine:
            await stores.redis.client.delete(engine.pool_ref(batch_id, CLIENT).pool_key)
            found = await doctor_on(own_settings, "pools")
            assert (found.ok, found.found) == (False, "Redis lacks 1 of 1, such as pool 1")
            await stores.guardian.check(options)
            assert (await doctor_on(own_settings, "pools")).ok
            await top_up(stores)
            async with asyncio.timeout(10):
                while [a.code for a in await redeem(engine, batch_id, 1)] != ["CODE51"]:
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def crashing_rebuilds(
    settings: Settings, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GuardedStores]:
    """Lose the data. Until the block ends every recovery crashes between its decision and the rebuild; one has."""

    async def crashes(*args: object) -> None:
        raise SimulatedCrashError

    server.restart_empty()
    with monkeypatch.context() as patched:
        patched.setattr(rebuild, "rebuild_partitions", crashes)
        with pytest.raises(SimulatedCrashError):
            async with open_stores(settings):
                pass
        async with open_stores(settings, wait_until_ready=False) as stores:
            yield stores


async def test_a_margin_counts_in_a_recovery_that_is_continued(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 200)
        await kill_unheard(stores)
    async with crashing_rebuilds(own_settings, own_redis, monkeypatch) as stores:
        assert await seqs(stores, "quarantined") == list(range(1, 51))
        for margin, total in ((70, 70), (70, 70), (60, 70)):
            planned = await stores.guardian.check(RecoveryOptions(margin=margin, dry_run=True))
            assert planned is not None
            held = len(await seqs(stores, "quarantined"))
            assert [(p.quarantined, p.issued_after) for p in planned.pools] == [(total - held, total)]
            with pytest.raises(SimulatedCrashError):
                await stores.guardian.check(RecoveryOptions(margin=margin))
            assert await seqs(stores, "quarantined") == list(range(1, total + 1))
    async with open_stores(own_settings) as stores:
        assert await seqs(stores, "quarantined") == list(range(1, 71))


async def test_an_operator_may_distrust_an_exact_decision(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 200)
    async with crashing_rebuilds(own_settings, own_redis, monkeypatch) as stores:
        assert await seqs(stores, "quarantined") == []
        with pytest.raises(SimulatedCrashError):
            await stores.guardian.check(RecoveryOptions(restored=True))
        assert await seqs(stores, "quarantined") == list(range(1, 51))


async def test_a_decision_of_an_earlier_state_of_postgres_is_dropped(
    own_settings: Settings, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was carried out, and more was issued since: as much again may be missing."""
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 200)
        await kill_unheard(stores)
    async with crashing_rebuilds(own_settings, own_redis, monkeypatch) as stores:
        assert await seqs(stores, "quarantined") == list(range(1, 51))
        await begin_incident(stores.postgres, "it went back")
        with pytest.raises(SimulatedCrashError):
            await stores.guardian.check(RecoveryOptions(restored=True))
        assert await seqs(stores, "quarantined") == list(range(1, 101))


async def blocked_on(connection: asyncpg.Connection[asyncpg.Record], table: str) -> None:
    async with asyncio.timeout(30):
        while not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)", table
        ):
            await asyncio.sleep(0.02)


def recover_command(settings: Settings) -> subprocess.Popen[str]:
    """Start `issuer recover` as a process that can be frozen."""
    environment = environment_of(settings, ISSUER_POSTGRES_TIMEOUT_S=str(settings.postgres_timeout_s))
    return subprocess.Popen(
        [sys.executable, "-m", "issuer", "recover"], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "table", ["pools", *(pytest.param(table, marks=pytest.mark.long) for table in ("quarantined", "batches"))]
)
async def test_a_frozen_recovery_is_replaced_and_does_not_continue(
    own_settings: Settings, own_redis: RedisServer, table: str
) -> None:
    settings = own_settings.model_copy(update={"postgres_timeout_s": 1.0})
    async with open_stores(settings) as stores:
        batch_id = await make_batch(stores, 200)
        await kill_unheard(stores)
    own_redis.restart_empty()
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    frozen = None
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            frozen = recover_command(settings)
            await blocked_on(connection, table)
            frozen.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(20), open_stores(settings) as stores:
            epoch, held = stores.redis.epoch, await seqs(stores, "quarantined")
            assert held == list(range(1, 51))
            frozen.send_signal(signal.SIGCONT)
            output, _ = await asyncio.to_thread(frozen.communicate, timeout=30)
            assert frozen.returncode == 1, output
            assert (stores.redis.epoch, await seqs(stores, "quarantined")) == (epoch, held)
            await top_up(stores)
            async with engine_of(settings, stores) as engine:
                assert [a.code for a in await redeem(engine, batch_id, 1)] == ["CODE51"]
    finally:
        await connection.close()
        if frozen is not None:
            frozen.kill()
            frozen.wait()
