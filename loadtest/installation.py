"""An installation to measure: `issuer up` with its defaults, on a free port, in a directory of its own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import redis.asyncio as aioredis
from pydantic import SecretStr

from issuer.contract.keys import partition_keys
from issuer.embedded.datadir import DataDirectory, RunningInstallation
from issuer.embedded.servers import OWNER, SUPERUSER
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from loadtest.drivers import REDEEM_PATH
from loadtest.processes import LoggedProgram, ProcessEntry, answers, family, process_table

CATCH_UP_LIMIT_S: Final = 300.0
_FAULTS: Final = "SELECT (SELECT count(*) FROM anomalies) + (SELECT count(*) FROM dead_letters)"


class BenchInstallation:
    """Embedded servers, API and worker. A context manager: its processes are stopped on exit."""

    def __init__(self, directory: Path, *, api_processes: int = 1, environment: Mapping[str, str] | None = None):
        self.directory = directory
        self.api_processes = api_processes
        directory.mkdir(parents=True, exist_ok=True)
        self._data = DataDirectory(directory / "data")
        command = [
            sys.executable, "-m", "issuer", "up", "--data-dir", str(self._data.path), "--port", "0",
            "--workers", str(api_processes),
        ]  # fmt: skip
        self._program = LoggedProgram(command, directory / "up.log", environment=environment)
        self._running: RunningInstallation | None = None
        self.settings = Settings()

    def __enter__(self) -> BenchInstallation:
        self._program.start(self._is_ready, "issuer up")
        running = self._data.running()
        assert running is not None
        self._running = running
        self.settings = Settings(
            redis_url=SecretStr(running.redis_url), database_url=SecretStr(self.database_url),
            partitions=running.partitions, pool_high_water=running.pool_high_water,
        )  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        self._program.stop()

    def _is_ready(self) -> bool:
        running = self._data.running()
        return running is not None and answers(f"{running.url}/readyz")

    @property
    def running(self) -> RunningInstallation:
        if self._running is None:
            raise RuntimeError("the installation is not running")
        return self._running

    @property
    def database_url(self) -> str:
        """The URL of the superuser: the benchmark fills tables, creates a database and forces checkpoints."""
        return self.running.owner_database_url.replace(f"//{OWNER}@", f"//{SUPERUSER}@")

    @property
    def data_directory(self) -> Path:
        return self._data.path

    @property
    def redeem_url(self) -> str:
        return self.running.url + REDEEM_PATH

    @property
    def api_key(self) -> str:
        return self._data.api_key.read_text().strip()

    def pids(self, role: str) -> list[int]:
        """Return the processes of a role (api, worker, redis, postgres) and their children."""
        return [process.pid for process in self._processes(role, process_table())]

    def _processes(self, role: str, table: Mapping[int, ProcessEntry]) -> list[ProcessEntry]:
        marks = {
            "api": "issuer.processes.api",
            "worker": "sync_worker",
            "redis": "--appendfsync",
            "postgres": "bin/postgres",
        }
        children = [process for process in table.values() if process.parent == self._program.pid]
        return [member for child in children if marks[role] in child.command for member in family(table, child.pid)]

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds used so far, by role. Exited processes are counted by their parents."""
        # One process table for all roles: a process that exits between two reads would be counted by neither.
        table = process_table()
        return {
            role: sum(process.cpu_s for process in self._processes(role, table))
            for role in ("api", "redis", "worker", "postgres")
        }

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Stores]:
        async with open_stores(self.settings, postgres_size=8) as stores:
            yield stores

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[aioredis.Redis]:
        client = aioredis.Redis.from_url(self.running.redis_url, protocol=2)
        async with client:
            yield client

    @asynccontextmanager
    async def postgres(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def backlog(self, client: aioredis.Redis) -> int:
        """Return the number of redemptions that are not in the ledger yet."""
        pipeline = client.pipeline(transaction=False)
        for partition in range(self.running.partitions):
            pipeline.hget(partition_keys(partition).state, "backlog")
        return sum(int(count or 0) for count in await pipeline.execute())

    async def catch_up_s(self) -> float:
        """Wait until every redemption is in the ledger. Return the seconds that this took.

        Raises RuntimeError if there are anomalies or dead letters, which invalidate the measurement.
        """
        started_at = time.monotonic()
        async with self.redis() as client:
            while await self.backlog(client):
                if time.monotonic() - started_at > CATCH_UP_LIMIT_S:
                    raise TimeoutError(f"the ledger did not catch up within {CATCH_UP_LIMIT_S:.0f} s")
                await asyncio.sleep(0.005)
        took_s = time.monotonic() - started_at
        async with self.postgres() as postgres:
            faults = await postgres.fetchval(_FAULTS)
        if faults:
            raise RuntimeError(f"{faults} anomalies and dead letters; read the log of the installation")
        return took_s

    async def versions(self) -> dict[str, str]:
        async with self.redis() as client, self.postgres() as postgres:
            info = await client.info("server")
            fsync = await client.config_get("appendfsync")
            return {
                "redis": f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}",
                "appendfsync": str(fsync["appendfsync"]),
                "postgres": str(await postgres.fetchval("SHOW server_version")),
                "synchronous_commit": str(await postgres.fetchval("SHOW synchronous_commit")),
                "fsync": str(await postgres.fetchval("SHOW fsync")),
            }
