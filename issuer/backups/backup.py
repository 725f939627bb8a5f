"""A copy of an installation: what Postgres holds, what it did not hold yet, and the files that are needed to read it.

A backup is a directory of its own that only its owner can enter. It has its final name once it is complete and on disk.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from issuer import __version__
from issuer.backups.directory import (
    DUMP,
    MANIFEST,
    RECEIPTS,
    SETTINGS,
    BackupError,
    Manifest,
    files_of,
    flush,
    write_checksums,
    write_private,
)
from issuer.backups.programs import run_program
from issuer.backups.receipts import copy_backlog, copy_journals
from issuer.instants import show_instant
from issuer.settings import Settings
from issuer.storage.database_identity import RESTORE_MARKER
from issuer.storage.incarnation import read_installation_id
from issuer.storage.migrate import check_schema
from issuer.storage.postgres import close_pool, connect_pool

NAME: Final = re.compile(r"issuer-\d{8}T\d{6}\.\d{3}Z")
"""The name of a backup, in the order of time."""
INCOMPLETE: Final = ".incomplete"
LOCK_WAIT_MS: Final = 60_000
"""How long a dump waits for a table that a migration has locked."""
OF_ONE_PLACE: Final = frozenset(
    {"redis_url", "database_url", "worker_database_url", "owner_database_url", "secret_key", "data_dir", "metrics_dir"}
)
"""Settings that a backup does not repeat: addresses of servers and directories; the secret key is a file of its own."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A complete backup, and the older ones that were removed for it.

    `backlog`: the redemptions that waited in Redis for the ledger; None: Redis could not be read.
    """

    path: Path
    size_bytes: int
    backlog: int | None
    removed: tuple[Path, ...]


async def create_backup(settings: Settings, directory: Path, *, keep: int, secrets: Mapping[str, str]) -> Backup:
    """Back up the installation of `settings` into a new directory in `directory`, and keep the `keep` newest of them.

    `secrets` are further files, by name. The installation may serve meanwhile: everything that it answered before this
    began is in the backup. Killed at any moment, it leaves at most an incomplete directory, which the next one
    removes. Call this in the main thread. Raises BackupError, PostgresUnavailableError, SchemaError, InstallationError.
    """
    try:
        with _prepared(directory):
            new = directory / _name(datetime.now(UTC))
            backlog = await _write(settings, new, secrets)
            size = sum(path.stat().st_size for path in files_of(new))
            return Backup(new, size, backlog, tuple(_remove_old(directory, new, keep)))
    except OSError as error:
        raise BackupError(f"cannot write to {directory}: {error.strerror or error}") from error


def _name(now: datetime) -> str:
    return f"issuer-{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z"


@contextmanager
def _prepared(directory: Path) -> Iterator[None]:
    """Create the directory, lock it until the block ends, and remove what a backup that was killed has left."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in directory.glob(f"*{INCOMPLETE}"):
            shutil.rmtree(left)
        yield
    except BlockingIOError:
        raise BackupError(f"another backup is being written to {directory}") from None
    finally:
        os.close(descriptor)


async def _write(settings: Settings, new: Path, secrets: Mapping[str, str]) -> int | None:
    """Write a backup and return the redemptions in its backlog."""
    postgres = await connect_pool(settings, size=1)
    try:
        await check_schema(postgres)
        installation = await read_installation_id(postgres)
    finally:
        await close_pool(postgres)
    incomplete = new.with_name(new.name + INCOMPLETE)
    (incomplete / RECEIPTS).mkdir(mode=0o700, parents=True)
    incomplete.chmod(0o700)
    try:
        copy_journals(settings.journals, installation, incomplete / RECEIPTS)
        backlog = await copy_backlog(settings, installation, incomplete / RECEIPTS)
        # Last: see `issuer.backups.receipts`.
        await run_program(
            "pg_dump", settings, "--format=custom", f"--lock-wait-timeout={LOCK_WAIT_MS}",
            f"--exclude-table={RESTORE_MARKER}", f"--file={incomplete / DUMP}",
        )  # fmt: skip
        manifest = Manifest(installation, settings.partitions, show_instant(datetime.now(UTC)), backlog)
        for name, text in {MANIFEST: manifest.to_json(), SETTINGS: settings_text(settings), **secrets}.items():
            write_private(incomplete / name, text.encode())
        write_checksums(incomplete)
        incomplete.rename(new)
        flush(new.parent)
    finally:
        # Gone already when it is complete.
        shutil.rmtree(incomplete, ignore_errors=True)
    return backlog


def settings_text(settings: Settings) -> str:
    """Return the settings of this installation for a shell or systemd. The number of partitions must be the same."""
    lines = [f"# issuer {__version__}"]
    for name in sorted((settings.model_fields_set | {"partitions"}) - OF_ONE_PLACE):
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        elif isinstance(value, Enum):
            value = value.value
        if value is not None:
            lines.append(f"ISSUER_{name.upper()}={shlex.quote(str(value))}")
    return "\n".join(lines) + "\n"


def _remove_old(directory: Path, new: Path, keep: int) -> Iterator[Path]:
    """Remove all but the newest backups. The new one stays, whatever the clock said at the others."""
    older = sorted(path for path in directory.iterdir() if NAME.fullmatch(path.name) and path != new)
    for path in older[: max(0, len(older) - keep + 1)]:
        # Renamed first, so that one that is removed by half does not look complete.
        incomplete = path.rename(path.with_name(path.name + INCOMPLETE))
        shutil.rmtree(incomplete)
        yield path
