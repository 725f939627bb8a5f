"""The product on a test's own databases: `issuer serve` with four API processes, a sync worker, the commands."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

import asyncpg
import httpx
import psutil
from pydantic import SecretStr

from issuer.settings import Settings
from loadtest.processes import free_port
from tests.support.crowd import Crowd, CrowdRequest
from tests.support.databases import fresh_redis_url
from tests.support.environment import environment_of
from tests.support.forked_processes import StartedProcess, complete_command, start_program
from tests.support.servers import STOP_LIMIT_S, RedisServer, wait_until

API_PROCESSES: Final = 4


class Service:
    """Start it from the main thread. Its processes end with the context, by their own ids."""

    def __init__(self, settings: Settings, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.database_url = settings.database_url.get_secret_value()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = environment_of(
            settings,
            ISSUER_MAX_BACKLOG=str(settings.max_backlog),
            # Codes are counted here: a machine that is slow for a while must not turn an answer into a 503.
            ISSUER_REDEEM_TIMEOUT_MS="10000",
            ISSUER_DATA_DIR=str(directory / ".issuer"),
            **environment,
        )
        self.api_key = ""
        self._processes: list[StartedProcess] = []

    def __enter__(self) -> Self:
        try:
            created = self.issuer_now(
                "keys", "create", "--name", "crowd", "--scope", "redeem", "--scope", "admin", "--json"
            )
            self.api_key = json.loads(created)["secret"]
            self._start("issuer", "serve", "--port", self.url.rpartition(":")[2], "--workers", str(API_PROCESSES))
            self._start("sync_worker")
            wait_until(self._is_ready, "the service is ready")
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self, module: str, *words: str) -> None:
        with (self.directory / f"{module}.log").open("wb") as log:
            self._processes.append(start_program(module, *words, environment=self.environment, output=log.fileno()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_LIMIT_S)
            finally:
                process.kill()
                process.wait()

    def _is_ready(self) -> bool:
        assert all(process.poll() is None for process in self._processes), f"see the logs in {self.directory}"
        try:
            ready = httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
        return ready and self._all_accept()

    def _all_accept(self) -> bool:
        """Return whether every API process accepts connections; the shared socket listens before any of them does."""
        with ExitStack() as opened:
            address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
            probes = [opened.enter_context(socket.create_connection(address)) for _ in range(64)]
            for probe in probes:
                probe.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                probe.recv(1)
            return len(self.accepted({probe.getsockname()[1] for probe in probes})) == API_PROCESSES

    def accepted(self, ports: AbstractSet[int]) -> Counter[int]:
        """Return how many of these connections each API process has accepted."""
        children = psutil.Process(self._processes[0].pid).children()
        return Counter(
            process.pid
            for process in children
            for connection in process.net_connections("tcp")
            if connection.raddr and connection.raddr.port in ports
        )

    @property
    def pid_of_serve(self) -> int:
        """The process id of the parent of the API processes."""
        return self._processes[0].pid

    def crowd(self, *, connections: int) -> Crowd:
        return Crowd(self.url, self.api_key, connections=connections)

    def issuer_now(self, *words: str) -> str:
        """Run a command that must succeed; return what it printed."""
        done = self._run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    async def issuer(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command while the test continues."""
        return await asyncio.to_thread(self._run, *words)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return complete_command(words, self.environment, self.directory)

    async def preload(self, name: str, codes: Iterable[tuple[UUID, str]], *options: str) -> UUID:
        """Load a file into the batch of that name; return the batch."""
        file = self.directory / f"{name}.csv"
        file.write_text("client_id,code\n" + "".join(f"{client},{code}\n" for client, code in codes))
        done = await self.issuer("preload", str(file), "--batch-name", name, "--json", *options)
        assert done.returncode == 0, done.stderr
        return UUID(json.loads(done.stdout)["batch_id"])

    async def sql(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def reconcile(self) -> str:
        """Run `issuer reconcile`, which must hold; return what it printed."""
        done = await self.issuer("reconcile")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    async def ledger(self, batch_id: UUID, count: int) -> list[asyncpg.Record]:
        """Wait until the ledger of a batch has `count` rows; return client, code, customer, time, ordered by time."""
        query = (
            "SELECT p.client_id, r.code, r.customer_id, r.redeemed_at, r.key_hash"
            " FROM redemptions r JOIN pools p ON p.id = r.pool_id WHERE r.batch_id = $1 ORDER BY r.redeemed_at"
        )
        async with asyncio.timeout(STOP_LIMIT_S):
            while len(rows := await self.sql(query, batch_id)) < count:
                await asyncio.sleep(0.05)
        return rows


def wishes(count: int, batch_id: UUID, clients: Sequence[UUID]) -> list[CrowdRequest]:
    """Return the wishes of that many customers, for the clients in turn."""
    return [CrowdRequest(batch_id, clients[number % len(clients)]) for number in range(count)]


def settings_of(redis: RedisServer, database_url: str) -> Settings:
    return Settings(
        redis_url=SecretStr(fresh_redis_url(redis)), database_url=SecretStr(database_url), partitions=4,
        max_backlog=100_000, heartbeat_ms=50,
    )  # fmt: skip


@asynccontextmanager
async def crowd_of_all(service: Service, connections: int) -> AsyncIterator[Crowd]:
    """A crowd that several API processes serve parts of."""
    async with service.crowd(connections=connections) as crowd:
        yield crowd
        accepted = service.accepted(crowd.ports())
        # The kernel chooses the process for each connection; several processes must have accepted some.
        assert len(accepted) > 1, accepted
        assert accepted.total() == connections
