"""The data directory of `issuer up`: where things lie in it, who may use it now, and what others may know of it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

SOCKET_PATH_BYTES: Final = 100
"""Unix sockets have names of at most 107 bytes (Linux) or 103 (macOS)."""
LONGEST_SOCKET: Final = "postgres/.s.PGSQL.5432"


class DataDirectoryError(Exception):
    """The data directory cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class RunningInstallation:
    """What a running `issuer up` tells the commands of the same user: how to reach it. Contains no API key."""

    pid: int
    url: str
    redis_url: str
    database_url: str
    partitions: int
    pool_high_water: int


class DataDirectory:
    """One installation's files. Everything secret in it has mode 0600, and so have its sockets."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: int | None = None

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def api_key(self) -> Path:
        return self.path / "api-key"

    @property
    def demo(self) -> Path:
        return self.path / "demo.json"

    @property
    def _running(self) -> Path:
        return self.path / "running.json"

    def acquire(self) -> None:
        """Makes the directory ours until this process ends, however it ends. Raises DataDirectoryError."""
        try:
            # Root's Postgres is another user and passes through; it cannot list.
            self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            self.redis.mkdir(mode=0o700, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirectoryError(f"cannot use the data directory {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock, 20, 0).decode().strip() or "unknown"
            self.release()
            raise DataDirectoryError(
                f"another `issuer up` (process {owner}) is running on {self.path}; stop it or use another --data-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_in_use(self) -> bool:
        """Whether an `issuer up` runs on it now."""
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(lock)

    def write_private(self, path: Path, text: str) -> None:
        """Writes a file of mode 0600, whole or not at all, and on the disk before this returns."""
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)

    def announce(self, running: RunningInstallation) -> None:
        self.write_private(self._running, json.dumps(asdict(running)))

    def withdraw(self) -> None:
        self._running.unlink(missing_ok=True)

    def stopped_uncleanly(self) -> bool:
        """Whether the last `issuer up` was killed; its children may still be about to end. Ask after `acquire`."""
        return self._running.exists()

    def running(self) -> RunningInstallation | None:
        """How to reach the `issuer up` that runs on this directory; None if none does, or we may not know."""
        if not self.is_in_use():
            return None
        try:
            return RunningInstallation(**json.loads(self._running.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def sockets(self) -> Path:
        """A directory for unix sockets: in the data directory or, if names there are too long, a short one in /tmp.

        The name depends on the data directory only, so that a server has the same address at every start.
        """
        inside = self.path / "run"
        if len(os.fsencode(inside / LONGEST_SOCKET)) <= SOCKET_PATH_BYTES:
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path("/tmp") / f"issuer-{os.geteuid()}-{digest}"

    def make_sockets(self) -> Path:
        """The same, made and checked: in /tmp anybody may have been there first. Raises DataDirectoryError."""
        path = self.sockets()
        path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise DataDirectoryError(f"{path} belongs to somebody else; use a --data-dir with a shorter name")
        return path
