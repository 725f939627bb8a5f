"""The data directory of `issuer up`: its layout, its lock, and how other commands find the running installation."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

MAX_SOCKET_PATH: Final = 100
"""Bytes. The name of a unix socket has at most 107 bytes on Linux, 103 on macOS."""
LONGEST_SOCKET: Final = "postgres/.s.PGSQL.5432"


class DataDirectoryError(Exception):
    """The data directory cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class RunningInstallation:
    """How commands of the same user reach a running `issuer up`. Contains no API key."""

    pid: int
    url: str
    redis_url: str
    database_url: str
    worker_database_url: str
    owner_database_url: str
    partitions: int
    pool_high_water: int
    started_at: str
    default_client: str | None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"with the id {uid}"


class DataDirectory:
    """The files of one installation. Secrets and sockets have mode 0600."""

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
    def secret_key(self) -> Path:
        return self.path / "secret-key"

    @property
    def demo(self) -> Path:
        return self.path / "demo.json"

    @property
    def _running(self) -> Path:
        return self.path / "running.json"

    def acquire(self) -> None:
        """Lock the directory until this process ends, however it ends. Raises DataDirectoryError."""
        try:
            # As root, Postgres runs as another user, which must pass through the directory but need not list it.
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
        """Whether an `issuer up` runs on this directory now."""
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
        """Write a file of mode 0600, whole or not at all. It is on disk when this returns."""
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
        """Whether the last `issuer up` was killed: its children may still be ending. Call this after `acquire`."""
        return self._running.exists()

    def running(self) -> RunningInstallation | None:
        """Return how to reach the `issuer up` that runs here; None if there is none, or its file is not readable."""
        if not self.is_in_use():
            return None
        try:
            return RunningInstallation(**json.loads(self._running.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def absence(self) -> str:
        """Return why `running` finds no installation, for a person."""
        if not os.access(self.path, os.F_OK):
            return f"there is no data directory {self.path}"
        owner = self.path.stat().st_uid
        if os.geteuid() not in (0, owner):
            return f"the data directory {self.path} belongs to the user {_user_name(owner)}"
        if self.is_in_use():
            return f"`issuer up` is still starting on {self.path}"
        return f"`issuer up` is not running on {self.path}"

    def sockets(self) -> Path:
        """Return the directory for unix sockets: in the data directory or, if that path is too long, in /tmp.

        It depends on the data directory only, so a server has the same address at every start.
        """
        inside = self.path / "run"
        if len(os.fsencode(inside / LONGEST_SOCKET)) <= MAX_SOCKET_PATH:
            return inside
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path("/tmp") / f"issuer-{os.geteuid()}-{digest}"

    def make_sockets(self) -> Path:
        """Create that directory and check its owner: in /tmp another user may have created it first.

        Raises DataDirectoryError.
        """
        path = self.sockets()
        path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise DataDirectoryError(f"{path} belongs to another user; use a --data-dir with a shorter name")
        return path
