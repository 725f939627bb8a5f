"""Restore a backup into an installation that has no data, up to the blessing of its Redis.

Each step can be repeated, so the same command finishes a restore that was stopped. A table in the database marks what
is under way; no process works with the database before it is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from issuer.backups.directory import BackupDirectory, BackupError
from issuer.backups.programs import run_program
from issuer.embedded.datadir import DataDirectory
from issuer.ledger.record import RecordResult
from issuer.recovery.guardian import Guardian
from issuer.recovery.inspection import inspect_partitions
from issuer.recovery.recovery import RecoveryOptions
from issuer.registration.replay import replay
from issuer.settings import Settings
from issuer.storage.database_identity import RESTORE_MARKER
from issuer.storage.incarnation import Incarnations
from issuer.storage.migrate import migrate
from issuer.storage.postgres import (
    RESTORE_LOCK,
    Connection,
    close_pool,
    connect_pool,
    own_connection,
    unavailable_translated,
)
from issuer.storage.redis_link import Link
from issuer.storage.roles import create_roles

log = structlog.get_logger()


@dataclass(slots=True)
class Restored:
    """What a restore did. `receipts`: redemptions that the dump lacked and that were recorded from copies and journals.

    `rejected`: receipts that do not fit the dump. `quarantined`: codes that may have been issued since the backup.
    """

    created_at: str
    epoch: int = 0
    ledger: int = 0
    receipts: int = 0
    rejected: int = 0
    pools: int = 0
    quarantined: int = 0
    problems: list[str] = field(default_factory=list)


_LOCK: Final = "SELECT pg_try_advisory_lock($1)"
_MARKED: Final = f"SELECT to_regclass('{RESTORE_MARKER}') IS NOT NULL"
_RELATIONS: Final = """
SELECT count(*) FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')"""
_SESSIONS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'issuer%'"""
_CREATE_MARK: Final = f"CREATE TABLE {RESTORE_MARKER} (backup text NOT NULL, is_loaded boolean NOT NULL DEFAULT false)"
_MARK: Final = f"INSERT INTO {RESTORE_MARKER} (backup) VALUES ($1)"
_READ_MARK: Final = f"SELECT backup, is_loaded FROM {RESTORE_MARKER}"
_LOADED: Final = f"UPDATE {RESTORE_MARKER} SET is_loaded = true"
# What a recovery had decided and an operator had to decide when the backup was made is history.
_UNBLESS: Final = "UPDATE installation SET run_id = NULL, recovering = NULL, incident = NULL"
_UNMARK: Final = f"DROP TABLE {RESTORE_MARKER}"
_FOUND: Final = """
SELECT (SELECT epoch FROM installation) AS epoch, (SELECT count(*) FROM ledger) AS ledger,
  count(DISTINCT pool_id) AS pools, count(*) AS quarantined
FROM quarantined WHERE epoch = (SELECT epoch FROM installation)"""


async def restore_backup(
    settings: Settings, backup: BackupDirectory, *, margin: int = 0, directory: DataDirectory | None = None
) -> Restored:
    """Restore a backup into the database and the Redis of `settings`, and bless that Redis.

    What may have been issued since is quarantined: `margin` or the bound of the backlog, whichever is more, of each
    pool. The secrets come into `directory`, which is that of `issuer up`. Raises BackupError when the installation has
    data or runs, and the errors of the stores; the same call can be repeated then. Call this in the main thread.
    """
    if settings.partitions != backup.manifest.partitions:
        raise BackupError(
            f"ISSUER_PARTITIONS is {settings.partitions}, and the backup has {backup.manifest.partitions}: set it so"
        )
    if directory is not None:
        _refuse_other_secrets(directory, backup)
    restored = Restored(backup.manifest.created_at)
    async with unavailable_translated(), _only_one(settings.as_owner()) as connection:
        if not await _begin(connection, settings, backup):
            await run_program(
                "pg_restore", settings, "--clean", "--if-exists", "--no-owner", "--no-privileges", "--exit-on-error",
                "--single-transaction", str(backup.dump),
            )  # fmt: skip
            async with connection.transaction():
                await connection.execute(_UNBLESS)
                await connection.execute(_LOADED)
        restored.problems += (await create_roles(settings)).problems
        await migrate(settings)
        before = (await _find(connection))["ledger"]
        recorded = await _record_receipts(connection, backup)
        restored.rejected = len(recorded.rejected)
        await _recover(settings.as_owner(), margin)
        found = await _find(connection)
        restored.epoch, restored.ledger, restored.receipts = found["epoch"], found["ledger"], found["ledger"] - before
        restored.pools, restored.quarantined = found["pools"], found["quarantined"]
        if directory is not None:
            for name, text in backup.secrets().items():
                directory.write_private(directory.path / name, text)
        await connection.execute(_UNMARK)
    return restored


def _refuse_other_secrets(directory: DataDirectory, backup: BackupDirectory) -> None:
    for name, text in backup.secrets().items():
        path = directory.path / name
        if path.exists() and path.read_text() != text:
            raise BackupError(f"{path} is another one than that of the backup: use an empty data directory")


@asynccontextmanager
async def _only_one(settings: Settings) -> AsyncIterator[Connection]:
    async with own_connection(settings) as connection:
        if not await connection.fetchval(_LOCK, RESTORE_LOCK):
            raise BackupError("another `issuer restore` is working on this database")
        yield connection


async def _begin(connection: Connection, settings: Settings, backup: BackupDirectory) -> bool:
    """Mark the database, which must be empty as Redis must be. Return whether the dump is loaded already."""
    if await connection.fetchval(_MARKED):
        mark = await connection.fetchrow(_READ_MARK)
        assert mark is not None
        if mark["backup"] != backup.mark:
            raise BackupError("another restore is not finished here: repeat that one, or use an empty database")
        return bool(mark["is_loaded"])
    if await connection.fetchval(_SESSIONS):
        raise BackupError("an API process, a worker or a command of issuer uses the database: stop them first")
    if await connection.fetchval(_RELATIONS):
        raise BackupError("the database has data: a backup is restored into an empty one, and nothing is overwritten")
    if installations := await _installations_in_redis(settings):
        raise BackupError(f"Redis has data of the installation {', '.join(installations)}: use an empty one")
    async with connection.transaction():
        await connection.execute(_CREATE_MARK)
        await connection.execute(_MARK, backup.mark)
    return False


async def _installations_in_redis(settings: Settings) -> list[str]:
    link = Link(settings, None)
    try:
        await link.open()
        states = await inspect_partitions(link, settings.partitions)
    finally:
        await link.aclose()
    return sorted({state.get("installation", "without an id") for state in states if state})


async def _record_receipts(connection: Connection, backup: BackupDirectory) -> RecordResult:
    """Record what the dump lacks. No registration is settled: a copy does not have what was answered later."""
    total = RecordResult()
    for directory in backup.receipts:
        total.add(await replay(connection, directory))
    return total


async def _find(connection: Connection) -> dict[str, int]:
    row = await connection.fetchrow(_FOUND)
    assert row is not None
    return dict(row)


async def _recover(settings: Settings, margin: int) -> None:
    """Bless Redis, unless a restore that was stopped has done so: a repetition would quarantine as much again."""
    postgres = await connect_pool(settings, size=2)
    try:
        incarnations = Incarnations(settings, postgres)
        await incarnations.start(restored=True)
        if incarnations.blessed is not None:
            return
        guardian = Guardian(settings, postgres, incarnations)
        try:
            await guardian.check(RecoveryOptions(restored=True, margin=margin))
        finally:
            await guardian.aclose()
    finally:
        await close_pool(postgres)
