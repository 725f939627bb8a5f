"""A Postgres that went back in time is detected before anything is recorded, acknowledged or recovered on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from issuer.batches.batch import BatchChanges
from issuer.batches.rules import parse_rules
from issuer.batches.store import change_batch
from issuer.contract.events import Redemption
from issuer.contract.keys import partition_keys
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.engine.engine import Engine
from issuer.ledger.record import record_redemptions
from issuer.pools.top_up import top_up
from issuer.recovery import rebuild, recovery
from issuer.recovery.doctor import examine
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.recovery.status import read_status
from issuer.registration.registrar import Registrar
from issuer.settings import Settings
from issuer.storage.database_identity import CopiedDatabaseError, is_same, read_identity
from issuer.storage.grants import Process
from issuer.storage.incarnation import InstallationError
from issuer.storage.lineage import (
    IncidentError,
    Lineage,
    TokenKind,
    accept_unknown,
    begin_incident,
    new_token,
    remove_expired_tokens,
    report_unknown,
)
from issuer.storage.postgres import close_pool, connect_pool
from issuer.storage.redis_link import NotReadyError
from sync_worker.reader import StreamReader
from sync_worker.worker import Worker
from sync_worker.writer import LedgerWriter
from tests.support.command import run_command
from tests.support.databases import drop_database, migrate_with_roles
from tests.support.environment import settings_as
from tests.support.parameters import some_long
from tests.support.recovery import (
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
    until,
    verdict,
)
from tests.support.rollback import copy_tables, go_back
from tests.support.servers import PostgresServer, RedisServer
from tests.support.standby import lagging_standby

pytestmark = pytest.mark.long

WENT_BACK = "Postgres went back in time"
FIVE_EACH = BatchChanges(rules=parse_rules({"maxpercustomer": 5}))


def codes(answers: list[Answer]) -> list[str]:
    return [answer.code for answer in answers if answer.outcome is Outcome.GRANTED and answer.code]


async def issued_again(stores: GuardedStores, engine: Engine, batch_id: UUID) -> set[str]:
    """Return what is issued first by data that were just recovered."""
    await top_up(stores)
    again: list[str] = []
    async with asyncio.timeout(20):
        while not again:
            again = codes(await redeem(engine, batch_id, 30))
    return set(again)


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
            await change_batch(stores, batch_id, FIVE_EACH, actor="test")
        problems = (await read_status(own_settings)).problems
        assert any(WENT_BACK in problem for problem in problems)
        (check,) = [check for check in await examine(own_settings, stores.postgres) if check.name == "incident"]
        assert (check.ok, WENT_BACK in check.found) == (False, True)

        own_redis.kill9()
        own_redis.start()
        with pytest.raises(IncidentError, match=WENT_BACK):
            await blessed_again(stores)

        # An operator continues with this Postgres: what it lost is among the quarantined codes. It may have forgotten
        # epochs as well.
        report = await stores.guardian.check(RecoveryOptions(restored=True))
        assert report is not None
        assert report.epoch > 1_000
        await until(lambda: not stores.incarnations.incident)
        assert await issued_again(stores, engine, batch_id) & set(given) == set()


async def test_a_worker_looks_for_its_tokens_itself(own_settings: Settings) -> None:
    """Before any other process has found out that Postgres lacks them, in the transaction that would record."""
    async with open_stores(own_settings) as stores:
        blessed = stores.incarnations.blessed
        assert blessed is not None
        writer = LedgerWriter(own_settings, Lineage(last=uuid.uuid4()))
        try:
            with pytest.raises(IncidentError, match=WENT_BACK):
                await writer.write(blessed, [])
        finally:
            await writer.close()


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
    ("module", "step", "decided"),
    some_long(
        [
            (rebuild, "bless_partitions", (9, 0)),
            (recovery, "inspect_pools", (0, 0)),
            (rebuild, "drain_streams", (0, 0)),
            (rebuild, "bless_partitions", (0, 2)),
        ]
    ),
)
async def test_an_incident_that_begins_during_a_recovery_ends_it(
    own_settings: Settings,
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    step: str,
    decided: tuple[int, int],
) -> None:
    """A process objects when the recovery has read the installation: before the fence, the decision, the blessing.

    What was decided before an operator continues is a bounded loss then. `decided`: the seqs quarantined, and void.
    """
    async with open_stores(own_settings) as stores:
        await make_batch(stores, 10)
        pool_id = await stores.postgres.fetchval("SELECT id FROM pools")
        event = Redemption(pool_id, 3, "CODE3", uuid.uuid4(), 1_700_000_000_000, uuid.uuid4(), None, 0, 1, 3)
        async with stores.postgres.acquire() as connection, connection.transaction():
            await record_redemptions(connection, [event])
        if decided[0]:
            await kill_unheard(stores)
    own_redis.restart_empty()
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
        assert (len(await seqs(stores, "quarantined")), len(await seqs(stores, "void_seqs"))) == decided
        await stores.guardian.check(RecoveryOptions(restored=True))
        assert await verdict(stores) == "bounded"
        assert (len(await seqs(stores, "quarantined")), await seqs(stores, "void_seqs")) == (9, [])


@pytest.mark.parametrize("process", some_long([crashing_engine_of, engine_of]))
async def test_the_journals_of_a_host_know_what_postgres_has_forgotten(
    journal_settings: Settings, own_redis: RedisServer, process: Callable[..., AbstractAsyncContextManager[Engine]]
) -> None:
    """Redis is lost, and Postgres the registration. The process was killed, or has ended and removed its journal."""
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 200)
        await copy_tables(stores.postgres)
        async with process(journal_settings, stores) as engine:
            given = codes(await redeem(engine, batch_id, 5))
    own_redis.restart_empty()
    postgres = await connect_pool(journal_settings, size=1)
    await go_back(postgres)
    await close_pool(postgres)
    with pytest.raises(IncidentError, match="the receipt journals of"):
        async with open_stores(journal_settings):
            pass
    async with open_stores(journal_settings, wait_until_ready=False) as stores:
        await stores.guardian.check(RecoveryOptions(restored=True))
        assert await verdict(stores) == "bounded"
        left = [1, 2, 3, 4, 5] if process is crashing_engine_of else []
        assert await seqs(stores, "redemptions") == left
        async with engine_of(journal_settings, stores) as engine:
            again = await issued_again(stores, engine, batch_id)
        assert again & set(given) == set()


async def test_no_process_registers_or_begins_during_an_incident(journal_settings: Settings) -> None:
    async with open_stores(journal_settings) as stores, engine_of(journal_settings, stores) as engine:
        batch_id = await make_batch(stores, 10)
        slow = journal_settings.model_copy(update={"heartbeat_ms": 1000})
        early, late = Engine(slow, stores.incarnations), Engine(journal_settings, stores.incarnations)
        registrars = [
            Registrar(settings, stores.postgres, stores.incarnations, one)
            for settings, one in ((slow, early), (journal_settings, late))
        ]
        await asyncio.gather(early.start(), late.start())
        try:
            # One is registered, and waits for the heartbeats of the others.
            async with registrars[0].registered():
                await until(lambda: "waiting" in registrars[0].trouble)
                await begin_incident(stores.postgres, "found something")
                async with registrars[1].registered():
                    await until(lambda: {one.trouble for one in registrars} == {"found something"})
                    assert (early.is_ready, late.is_ready) == (False, False)
                    assert len(codes(await redeem(engine, batch_id, 1))) == 1
        finally:
            await asyncio.gather(early.aclose(), late.aclose())


async def test_what_an_operator_has_accepted_begins_no_incident_again(own_settings: Settings) -> None:
    """A process has looked for a token before the decision of the operator, and objects behind it."""
    async with open_stores(own_settings) as stores:
        token = uuid.uuid4()
        async with stores.postgres.acquire() as process, stores.postgres.acquire() as operator:
            async with operator.transaction():
                await operator.execute("UPDATE installation SET run_id = run_id")
                objects = asyncio.create_task(report_unknown(process, [token], "a process"))
                while not await stores.postgres.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                    assert not objects.done()
                await accept_unknown(operator, [])
            await objects
            assert await stores.postgres.fetchval("SELECT incident FROM installation") is None
            assert WENT_BACK in await report_unknown(process, [token, uuid.uuid4()], "a process")
        assert WENT_BACK in await stores.postgres.fetchval("SELECT incident FROM installation")


async def test_an_epoch_before_the_last_one_is_never_used_again(
    journal_settings: Settings, own_redis: RedisServer
) -> None:
    """Neither by a process nor by a recovery, whatever Postgres says. All tokens are known."""
    async with open_stores(journal_settings) as stores:
        await make_batch(stores, 10)
        engine = Engine(journal_settings, stores.incarnations)
        await engine.start()
        registrar = Registrar(journal_settings, stores.postgres, stores.incarnations, engine)
        async with registrar.registered():
            await ready(engine)
            await lose_data(own_redis, stores, engine)
            await stores.postgres.execute("UPDATE installation SET epoch = 1")
            await until(lambda: "Postgres went back to epoch 1" in registrar.trouble)
            with pytest.raises(IncidentError, match="Redis is ahead of Postgres"):
                await stores.guardian.check()
            await stores.postgres.execute("UPDATE installation SET epoch = 2")
        await engine.aclose()


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


@pytest.fixture
def copied_settings(own_settings: Settings, postgres_server: PostgresServer) -> Iterator[Callable[[], Settings]]:
    """Makes a copy of the database, which must have no connections, and settings with it and the same Redis."""
    urls: list[str] = []

    def copy() -> Settings:
        source = own_settings.database_url.get_secret_value().rpartition("/")[2]
        name = f"copy_of_{source}"
        postgres_server.psql(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
        urls.append(postgres_server.url(name))
        return own_settings.model_copy(update={"database_url": SecretStr(urls[-1])})

    yield copy
    for url in urls:
        drop_database(postgres_server, url)


async def test_a_copied_database_is_refused_until_it_is_adopted(
    own_settings: Settings, copied_settings: Callable[[], Settings]
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
    staging = copied_settings()
    async with open_stores(own_settings) as stores, engine_of(own_settings, stores) as engine:
        given = codes(await redeem(engine, batch_id, 30))
        with pytest.raises(InstallationError, match="is a copy"):
            async with open_stores(staging):
                pass
        # A worker that was started before, and whose address of Postgres leads to the copy now.
        writer = LedgerWriter(staging, stores.incarnations.lineage)
        assert stores.incarnations.blessed is not None
        with pytest.raises(CopiedDatabaseError):
            await writer.write(stores.incarnations.blessed, [])
        await writer.close()
        _, printed = await run_command(staging, "doctor")
        assert "WRONG database: this database" in printed
        # A process that runs: what it reads there must not come to Redis.
        async with open_stores(own_settings) as other:
            await until(lambda: other.incarnations.lineage.last)
            await other.postgres.execute("UPDATE installation SET database = '1/1'")
            await until(lambda: other.incarnations.incident)
            with pytest.raises(NotReadyError, match="is a copy"):
                await change_batch(other, batch_id, FIVE_EACH, actor="test")
            await other.postgres.execute("UPDATE installation SET database = NULL")
            await until(lambda: not other.incarnations.incident)
            await other.incarnations.start()
        await drain(stores)
        assert len(await seqs(stores, "redemptions")) == 30

        # It takes the place of the original, on purpose: the original meets the token of that recovery in Redis.
        status, printed = await run_command(staging, "recover", "--restored")
        assert status == 0, printed
        await until(lambda: stores.incarnations.incident)
    async with open_stores(staging) as stores, engine_of(staging, stores) as engine:
        assert await issued_again(stores, engine, batch_id) & set(given) == set()


async def test_an_identity_is_compared_as_far_as_it_may_be_read(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores:
        await stores.postgres.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        try:
            async with open_stores(settings_as(own_settings, Process.API)) as limited:
                assert (await read_identity(limited.postgres)).startswith("/")
        finally:
            await stores.postgres.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    assert is_same("7/16384", "/16384")
    assert not is_same("7/16384", "8/16384")
    assert not is_same("7/16384", "7/16385")


@pytest.mark.long
async def test_an_asynchronous_standby_that_lagged_takes_over(own_settings: Settings, tmp_path: Path) -> None:
    """A worker has recorded and acknowledged what the standby does not have. Then Redis is lost as well."""
    with PostgresServer(tmp_path / "primary") as primary:
        settings = own_settings.model_copy(update={"database_url": SecretStr(primary.url())})
        await migrate_with_roles(settings)
        async with open_stores(settings) as stores, engine_of(settings, stores) as engine:
            batch_id = await make_batch(stores, 1000)
            given = codes(await redeem(engine, batch_id, 20))
            await drain(stores)
            standby = lagging_standby(primary, tmp_path / "standby")
            given += codes(await redeem(engine, batch_id, 40))
            await drain(stores)
        primary.kill9()
    with standby:
        settings = own_settings.model_copy(update={"database_url": SecretStr(standby.url())})
        async with open_stores(settings) as stores, working(settings, stores):
            await until(lambda: stores.incarnations.incident)
            assert len(given) == 60
            assert len(await seqs(stores, "redemptions")) == 20
            with pytest.raises(IncidentError, match=WENT_BACK):
                await stores.guardian.check(RecoveryOptions(margin=1))
            await stores.guardian.check(RecoveryOptions(restored=True))
            await stores.redis.client.flushall()
            await blessed_again(stores)
            async with engine_of(settings, stores) as engine:
                again = await issued_again(stores, engine, batch_id)
        assert again & set(given) == set()
