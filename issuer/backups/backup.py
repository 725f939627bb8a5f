"""A copy of an installation: what Postgres holds, and the files that are needed to read it. Redis is rebuilt from it.

A backup is a directory of its own that only its owner can enter. It has its final name once it is complete and on disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import SecretStr

from issuer import __version__
from issuer.embedded.binaries import MissingBinaryError, postgres_binaries
from issuer.processes.launch import launch_command
from issuer.settings import Settings

DUMP: Final = "postgres.dump"
SETTINGS: Final = "settings.env"
CHECKSUMS: Final = "SHA256SUMS"
NAME: Final = re.compile(r"issuer-\d{8}T\d{6}\.\d{3}Z")
"""The name of a backup, in the order of time."""
INCOMPLETE: Final = ".incomplete"
LOCK_WAIT_MS: Final = 60_000
"""How long a dump waits for a table that a migration has locked."""
OF_ONE_PLACE: Final = frozenset(
    {"redis_url", "database_url", "worker_database_url", "owner_database_url", "secret_key", "data_dir", "metrics_dir"}
)
"""Settings that a backup does not repeat: addresses of servers and directories; the secret key is a file of its own."""


class BackupError(Exception):
    """The installation was not backed up. The message says why; no incomplete backup has the name of a complete one."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A complete backup, and the older ones that were removed for it."""

    path: Path
    size_bytes: int
    removed: tuple[Path, ...]


def create_backup(settings: Settings, directory: Path, *, keep: int, secrets: Mapping[str, str]) -> Backup:
    """Back up the database of `settings` into a new directory in `directory`, and keep the `keep` newest of them.

    `secrets` are further files, by name. The installation may serve meanwhile: the dump is one snapshot. Killed at any
    moment, it leaves at most an incomplete directory, which the next one removes. Call this from the main thread.
    Raises BackupError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory):
            for left in directory.glob(f"*{INCOMPLETE}"):
                shutil.rmtree(left)
            new = directory / _name(datetime.now(UTC))
            size = _write(settings, new, secrets)
            return Backup(new, size, tuple(_remove_old(directory, new, keep)))
    except OSError as error:
        raise BackupError(f"cannot write to {directory}: {error.strerror or error}") from error


def _name(now: datetime) -> str:
    return f"issuer-{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BackupError(f"another backup is being written to {directory}") from None
    finally:
        os.close(descriptor)


def _write(settings: Settings, new: Path, secrets: Mapping[str, str]) -> int:
    """Write a backup and return its size in bytes."""
    incomplete = new.with_name(new.name + INCOMPLETE)
    incomplete.mkdir(mode=0o700)
    try:
        _dump(settings, incomplete / DUMP)
        for name, text in {SETTINGS: settings_text(settings), **secrets}.items():
            _write_private(incomplete / name, text)
        files = sorted(incomplete.iterdir())
        _write_private(incomplete / CHECKSUMS, "".join(f"{_sha256(path)}  {path.name}\n" for path in files))
        for path in (*files, incomplete):
            _flush(path)
        incomplete.rename(new)
        _flush(new.parent)
    finally:
        # Gone already when it is complete.
        shutil.rmtree(incomplete, ignore_errors=True)
    return sum(path.stat().st_size for path in new.iterdir())


def _dump(settings: Settings, file: Path) -> None:
    url, environment = without_password(settings.as_owner().database_url.get_secret_value())
    command = [pg_dump(), "--format=custom", "--no-password", f"--lock-wait-timeout={LOCK_WAIT_MS}"]
    done = subprocess.run(
        launch_command([*command, f"--file={file}", f"--dbname={url}"], death_signal=signal.SIGTERM),
        env=os.environ | {"PGAPPNAME": "issuer backup", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        umask=0o077,
    )
    if done.returncode != 0:
        raise BackupError(done.stderr.strip() or f"pg_dump ended with the status {done.returncode}")


def pg_dump() -> str:
    """Return the path of pg_dump: that of the Postgres wheel, or of PATH. Raises BackupError.

    A server that is newer than pg_dump refuses it, so the wheel's, which is newer than most, comes first.
    """
    try:
        return str(postgres_binaries() / "pg_dump")
    except MissingBinaryError as error:
        found = shutil.which("pg_dump")
        if found is None:
            raise BackupError(f"there is no pg_dump on the PATH, and {error}") from error
        return found


def without_password(url: str) -> tuple[str, dict[str, str]]:
    """Return a Postgres URL without its password, and the environment that gives it to libpq.

    Arguments of a process can be read by every user of the machine.
    """
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    password = options.pop("password", "") or unquote(password)
    query = urlencode(options, quote_via=quote)
    bare = f"{parts.scheme}://{user}{at}{hosts}{parts.path}" + (f"?{query}" if query else "")
    return bare, {"PGPASSWORD": password} if password else {}


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


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old(directory: Path, new: Path, keep: int) -> Iterator[Path]:
    """Remove all but the newest backups. The new one stays, whatever the clock said at the others."""
    older = sorted(path for path in directory.iterdir() if NAME.fullmatch(path.name) and path != new)
    for path in older[: max(0, len(older) - keep + 1)]:
        # Renamed first, so that one that is removed by half does not look complete.
        incomplete = path.rename(path.with_name(path.name + INCOMPLETE))
        shutil.rmtree(incomplete)
        yield path
