"""The embedded servers of `issuer up`: a real Valkey and a real Postgres, durable, accessible to their owner only.

Both listen on unix sockets in a directory that no other user can enter, and on no network. Each has `prepare`, called
before each start (it also ends what a killed `issuer up` left running), `command`, which starts it, and `is_ready`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import asyncpg
import psutil
import redis.asyncio
import structlog
from pydantic import SecretStr

from issuer.embedded.binaries import INITDB_OPTIONS, reachable_postgres, server_user, valkey_server
from issuer.embedded.datadir import DataDirectory, DataDirectoryError
from issuer.processes.launch import launch_command
from issuer.settings import Settings
from issuer.storage.grants import Process
from issuer.storage.roles import role_name

log = structlog.get_logger()

STOP_LIMIT_S: Final = 60.0
ORPHAN_LIMIT_S: Final = 5.0
DATABASE: Final = "issuer"
SUPERUSER: Final = "postgres"
OWNER: Final = "issuer_owner"


class EmbeddedServer(Protocol):
    """A server as the supervisor sees it."""

    name: str
    stop_signal: signal.Signals

    @property
    def url(self) -> str: ...

    def prepare(self) -> None: ...

    def command(self) -> list[str]: ...

    async def is_ready(self) -> bool: ...


def end_leftover(pid_file: Path, number: signal.Signals) -> None:
    """Stop the server that `pid_file` names, if it works in the directory of that file.

    The data directory must be locked, so that no running `issuer up` uses the server. Blocks while it stops.
    """
    try:
        process = psutil.Process(int(pid_file.read_text().split("\n", 1)[0]))
        if Path(process.cwd()) != pid_file.parent.resolve():
            return
        log.warning("stopping a server that an earlier run left running", pid=process.pid)
        process.send_signal(number)
        try:
            process.wait(STOP_LIMIT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    except psutil.AccessDenied as error:
        raise DataDirectoryError(f"{pid_file.parent} is in use by process {error.pid} of another user") from error


def end_orphans(data: Path) -> None:
    """End the backends that a killed Postgres left running on its `data`.

    A backend in a long statement notices only at its end that its server is gone. Until then the shared memory is in
    use and Postgres does not start. A backend has a title and the working directory `data`; it is an orphan when its
    parent is not Postgres. The data directory must be locked. Blocks while they stop.
    """
    orphans = [process for process in psutil.process_iter() if _is_orphan(process, data.resolve())]
    for process in orphans:
        log.warning("stopping a Postgres process whose server is gone", pid=process.pid)
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGQUIT)
    _, alive = psutil.wait_procs(orphans, timeout=ORPHAN_LIMIT_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=STOP_LIMIT_S)


def _is_orphan(process: psutil.Process, data: Path) -> bool:
    try:
        if not " ".join(process.cmdline()).startswith("postgres: ") or Path(process.cwd()) != data:
            return False
        parent = process.parent()
        return parent is None or parent.name() != "postgres"
    except (psutil.Error, OSError):
        # It has ended, or belongs to another user.
        return False


class EmbeddedValkey:
    """Valkey, or the server that ISSUER_REDIS_SERVER names. A redemption is on disk before it is answered.

    Started by root it runs as another user, which owns its part of the data directory.
    """

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(self, directory: DataDirectory, settings: Settings) -> None:
        self._directory = directory
        self._binary = valkey_server(settings.redis_server)
        self._appendfsync = settings.appendfsync
        self._pid_file = directory.redis / "redis.pid"
        self._sockets = directory.sockets() / "redis"
        self._socket = self._sockets / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}?db=0"

    def _settings(self) -> dict[str, str | Path]:
        return {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "dir": self._directory.redis,
            "pidfile": self._pid_file,
            "daemonize": "no",
            # The arguments stay readable for an operator who looks at the processes.
            "set-proc-title": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "maxmemory-policy": "noeviction",
        }

    def prepare(self) -> None:
        end_leftover(self._pid_file, self.stop_signal)
        self._directory.make_sockets()
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        # Files that root has put there, such as those of a backup, too.
        if (user := server_user(self._directory.redis)) is not None:
            _give_all(self._sockets, user)
            _give_all(self._directory.redis, user)

    def command(self) -> list[str]:
        # As arguments: a path that the user cannot reach is replaced in them, as it would not be in a file.
        options = [part for name, value in self._settings().items() for part in (f"--{name}", str(value))]
        return launch_command(
            [self._binary, *options],
            death_signal=self.stop_signal,
            user=server_user(self._directory.redis),
            directories=[self._binary.parent, self._directory.redis, self._sockets],
        )

    async def is_ready(self) -> bool:
        client = redis.asyncio.Redis(unix_socket_path=str(self._socket), protocol=2, socket_timeout=2)
        try:
            return bool(await client.ping())
        except (redis.RedisError, OSError):
            return False
        finally:
            await client.aclose()


def _give_all(path: Path, user: str) -> None:
    """Give a directory and what root owns in it to the user. Links are not followed: the user may have made them."""
    uid, gid = pwd.getpwnam(user)[2:4]
    try:
        for part in (path, *(Path(above, name) for above, *names in os.walk(path) for name in chain(*names))):
            status = part.lstat()
            if status.st_uid == 0 and (stat.S_ISDIR(status.st_mode) or status.st_nlink == 1):
                os.chown(part, uid, gid, follow_symlinks=False)
    except PermissionError as error:
        raise DataDirectoryError(
            f"the servers do not run as root, and root may not give {path} to {user} here; start as an ordinary user"
        ) from error


class EmbeddedPostgres:
    """PostgreSQL 18. Started by root it runs as another user, which owns its part of the data directory."""

    name = "postgres"
    stop_signal = signal.SIGINT
    """Fast shutdown: end all connections, write everything, stop."""

    def __init__(self, directory: DataDirectory, settings: Settings) -> None:
        self._directory = directory
        self._data = directory.postgres
        self._sockets = directory.sockets() / "postgres"
        self._roles = role_name(settings, Process.API), role_name(settings, Process.WORKER)
        self._connections = 40 + settings.workers * settings.postgres_connections

    def _url(self, database: str, role: str) -> str:
        return f"postgresql://{role}@/{database}?host={quote(str(self._sockets), safe='')}"

    @property
    def url(self) -> str:
        """The URL of the superuser, whom no process of the installation uses."""
        return self._url(DATABASE, SUPERUSER)

    def urls(self) -> dict[str, SecretStr]:
        """Return the settings that name this server: a URL for the API, the worker and the commands each."""
        roles = {"database_url": self._roles[0], "worker_database_url": self._roles[1], "owner_database_url": OWNER}
        return {name: SecretStr(self._url(DATABASE, role)) for name, role in roles.items()}

    def _launch(self, user: str | None, program: str, data: Path, *options: str) -> list[str]:
        argv: list[str | Path] = [reachable_postgres(user) / program, "-D", data, *options]
        return launch_command(argv, death_signal=self.stop_signal, user=user, directories=[data, self._sockets])

    def prepare(self) -> None:
        end_leftover(self._data / "postmaster.pid", self.stop_signal)
        end_orphans(self._data)
        user = server_user(self._data)
        self._directory.make_sockets()
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            _give_all(self._sockets, user)
        if not self._data.exists():
            self._create_data(user)
        elif user is not None:
            _give_all(self._data, user)

    def _create_data(self, user: str | None) -> None:
        log.info("creating the Postgres data directory; this takes some seconds, once", directory=str(self._data))
        # Under another name until it is complete: a killed initdb leaves a directory that looks complete.
        new = self._data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if user is not None:
            _give_all(new, user)
        # Only the owner can enter the directory of the socket, so no password is needed.
        command = self._launch(user, "initdb", new, *INITDB_OPTIONS, "--auth=trust")
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise DataDirectoryError(f"cannot create a Postgres data directory in {new}: {done.stderr.strip()}")
        new.rename(self._data)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": '"' + str(self._sockets).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "max_connections": str(self._connections),
            "max_wal_size": "2GB",
            "log_timezone": "UTC",
            # Details of an error quote the row, which may have personal data.
            "log_error_verbosity": "terse",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return self._launch(server_user(self._data), "postgres", self._data, *options)

    async def is_ready(self) -> bool:
        """Whether Postgres answers. Creates the database and its owner, who is no superuser, if they do not exist."""
        try:
            connection = await asyncpg.connect(self._url("postgres", SUPERUSER), timeout=5)
        except (TimeoutError, OSError, asyncpg.PostgresError):
            return False
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", OWNER):
                await connection.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        finally:
            await connection.close()
        return True


def rotate_log(path: Path, limit_bytes: int = 20_000_000) -> None:
    """Rename a log that is too large, keeping one older file. Call this before a start."""
    if path.exists() and path.stat().st_size > limit_bytes:
        path.replace(path.with_suffix(".log.1"))
