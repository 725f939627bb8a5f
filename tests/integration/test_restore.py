"""`issuer restore` on servers of one's own: what a backup brings back, in any order of events, and what it refuses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from issuer.backups import backup, restore
from issuer.backups.backup import create_backup
from issuer.backups.directory import BackupDirectory, BackupError, open_backup, write_private
from issuer.backups.programs import run_program
from issuer.backups.restore import restore_backup
from issuer.contract.outcomes import Outcome
from issuer.embedded.datadir import DataDirectory
from issuer.engine.calls import Answer
from issuer.engine.engine import Engine
from issuer.ledger.reconcile import reconcile
from issuer.pools.top_up import top_up
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.settings import Settings
from issuer.storage.incarnation import InstallationError
from tests.support.recovery import (
    CLIENT,
    SimulatedCrashError,
    crashing_engine_of,
    drain,
    engine_of,
    make_batch,
    redeem,
)
from tests.support.servers import RedisServer

pytestmark = pytest.mark.long

KEY = uuid.uuid4().hex
CUSTOMER = uuid.uuid4().bytes


def codes(answers: list[Answer]) -> set[str]:
    assert {answer.outcome for answer in answers} == {Outcome.GRANTED}
    return {str(answer.code) for answer in answers}


async def add_unopened_pool(stores: GuardedStores, batch_id: UUID) -> int:
    """What a preload has committed when the backup is made, and opens after it."""
    pool_id = await stores.postgres.fetchval(
        "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, 200) RETURNING id", batch_id, uuid.UUID(int=8)
    )
    await stores.postgres.execute(
        "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
        " SELECT $1, s, $2, $3, 'LATER' || s FROM generate_series(1, 200) s",
        pool_id, batch_id, uuid.UUID(int=8),
    )  # fmt: skip
    return int(pool_id)


async def replay(engine: Engine, batch_id: UUID) -> Answer:
    return await engine.redeem(engine.pool_ref(batch_id, CLIENT), CUSTOMER, idempotency_key=KEY)


async def redeem_later(engine: Engine, batch_id: UUID, count: int) -> set[str]:
    ref = engine.pool_ref(batch_id, uuid.UUID(int=8))
    return codes(await asyncio.gather(*[engine.redeem(ref, uuid.uuid4().bytes) for _ in range(count)]))


async def backed_up(settings: Settings, directory: Path) -> BackupDirectory:
    made = await create_backup(settings, directory, keep=1, secrets={})
    return open_backup(made.path)


@pytest.fixture
def target(journal_settings: Settings, redis_url: str, empty_database_url: str, tmp_path: Path) -> Settings:
    """Another, empty installation on other servers and another host."""
    servers = {"redis_url": SecretStr(redis_url), "database_url": SecretStr(empty_database_url)}
    return journal_settings.model_copy(update=servers | {"data_dir": tmp_path / "other"})


async def crash(*_: Any, **__: Any) -> Any:
    raise SimulatedCrashError


def after(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def done_and_crash(*args: Any, **options: Any) -> Any:
        await step(*args, **options)
        raise SimulatedCrashError

    return done_and_crash


async def test_what_was_issued_around_a_backup_is_not_issued_again(
    journal_settings: Settings, target: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts are in the dump, in the backlog, or came later; a pool was opened later; the restore stops at each step."""
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 400)
        async with crashing_engine_of(journal_settings, stores) as engine:
            given = codes(await redeem(engine, batch_id, 10))
            await drain(stores)
            answer = await replay(engine, batch_id)
            given |= codes([answer]) | codes(await redeem(engine, batch_id, 4))
            old_pool = await add_unopened_pool(stores, batch_id)
            made = await backed_up(journal_settings, tmp_path / "backups")
            await top_up(stores)
            given |= codes(await redeem(engine, batch_id, 6)) | await redeem_later(engine, batch_id, 3)
            await drain(stores)
        lost_epoch = stores.redis.epoch
    assert made.manifest.backlog == 5

    # After each of its steps.
    for step in ("run_program", "migrate", "_record_receipts", "_recover"):
        with monkeypatch.context() as patched:
            patched.setattr(restore, step, after(getattr(restore, step)))
            with pytest.raises(SimulatedCrashError):
                await restore_backup(target, made)
        with pytest.raises(InstallationError, match="being restored"):
            async with open_stores(target):
                pass
    restored = await restore_backup(target, made)
    assert (restored.ledger, restored.rejected, restored.pools, restored.quarantined) == (15, 0, 2, 100)
    assert restored.epoch > lost_epoch + 1_000

    async with open_stores(target) as stores, engine_of(target, stores) as engine:
        again = await replay(engine, batch_id)
        assert (again.outcome, again.code) == (Outcome.REPLAYED, answer.code)
        await top_up(stores)
        issued = codes(await redeem(engine, batch_id, 20)) | await redeem_later(engine, batch_id, 20)
        assert issued & given == set()
        await drain(stores)
        assert (await reconcile(stores)).holds
        await make_batch(stores, 1)
        assert await stores.postgres.fetchval("SELECT max(id) FROM pools") > old_pool + 1_000_000


async def test_a_restore_changes_nothing_where_something_is(
    journal_settings: Settings, target: Settings, tmp_path: Path
) -> None:
    async with open_stores(journal_settings) as stores:
        await make_batch(stores, 3)
        first, second = [await backed_up(journal_settings, tmp_path / name) for name in ("first", "second")]
        with pytest.raises(BackupError, match="uses the database: stop them first"):
            await restore_backup(journal_settings, first)
    with pytest.raises(BackupError, match="the database has data"):
        await restore_backup(journal_settings, first)
    of_redis = target.model_copy(update={"redis_url": journal_settings.redis_url})
    with pytest.raises(BackupError, match=f"Redis has data of the installation {first.manifest.installation}"):
        await restore_backup(of_redis, first)
    with pytest.raises(BackupError, match="ISSUER_PARTITIONS is 8, and the backup has 4"):
        await restore_backup(target.model_copy(update={"partitions": 8}), first)
    directory = DataDirectory(tmp_path / "other")
    directory.path.mkdir()
    directory.write_private(directory.secret_key, "another")
    write_private(first.path / "secret-key", b"its own")
    with pytest.raises(BackupError, match="secret-key is another one"):
        await restore_backup(target, first, directory=directory)
    directory.secret_key.unlink()
    connection = await asyncpg.connect(target.database_url.get_secret_value())
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0

    # What another one has begun is not mixed with this one.
    with patch.object(restore, "migrate", crash), pytest.raises(SimulatedCrashError):
        await restore_backup(target, second)
    with pytest.raises(BackupError, match="another restore is not finished here"):
        await restore_backup(target, first)
    await connection.close()
    await restore_backup(target, second)


async def test_facts_on_their_way_are_copied_before_the_dump_and_without_redis_from_the_journals(
    journal_settings: Settings, target: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    async with open_stores(journal_settings) as stores:
        batch_id = await make_batch(stores, 400)

        async def record_and_dump(*args: Any) -> None:
            await drain(stores)
            await run_program(*args)
            await redeem(engine, batch_id, 2)
            await drain(stores)

        async with crashing_engine_of(journal_settings, stores) as engine:
            await redeem(engine, batch_id, 5)
            with patch.object(backup, "run_program", record_and_dump):
                during = await backed_up(journal_settings, tmp_path / "during")
            await redeem(engine, batch_id, 3)
    own_redis.stop()
    without_redis = await backed_up(journal_settings, tmp_path / "without")
    assert (during.manifest.backlog, without_redis.manifest.backlog) == (5, None)
    restored = await restore_backup(target, without_redis)
    assert (restored.ledger, restored.receipts, restored.quarantined) == (10, 3, 50)
