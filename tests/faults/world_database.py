"""The database of a world: what it contains, its locks, backups, copies and standbys."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from tests.faults.loop_thread import LoopThread
from tests.faults.proxy import Proxy
from tests.support.servers import PostgresServer, ServerProcess, wait_until
from tests.support.standby import lagging_standby


class WorldDatabase:
    """The part of a world that is stored in Postgres. `others`: further servers, which are stopped with the world."""

    def __init__(self, directory: Path, postgres: PostgresServer, database_url: str) -> None:
        self.directory = directory
        self.postgres = postgres
        self.database_url = database_url
        self.thread = LoopThread()
        self.proxies: dict[str, Proxy] = {}
        self.others: list[ServerProcess] = []

    @property
    def database(self) -> str:
        return self.database_url.rpartition("/")[2]

    def sql(self, query: str, *args: object) -> list[Any]:
        """Return the rows of a query. Postgres must be available."""
        return self.thread.fetch(self.database_url, query, *args)

    @contextmanager
    def locking(self, table: str) -> Iterator[None]:
        """Lock a table exclusively until the block ends: every process that reads or writes it waits."""

        async def take() -> asyncpg.Connection[asyncpg.Record]:
            connection = await asyncpg.connect(self.database_url, timeout=20)
            await connection.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            return connection

        connection = self.thread.run(take())
        try:
            yield
        finally:
            self.thread.run(connection.close())

    def has_blocked_process(self, table: str) -> bool:
        """Return whether a process waits for a table locked by `locking`."""
        return bool(self.sql("SELECT FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass", table))

    def wait_until_blocked(self, table: str) -> None:
        """Wait until a process waits for a table locked by `locking`."""
        wait_until(lambda: self.has_blocked_process(table), f"a process waits for {table}")

    def rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self.sql(f"SELECT count(*) AS n FROM {table}")[0]["n"])

    def dump_database(self) -> Path:
        """Back up Postgres while all processes run."""
        file = self.directory / "backup.sql"
        command = [str(self.postgres.programs / "pg_dump"), "-f", str(file), "-d", self.database_url]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return file

    def restore_database(self, dump: Path) -> None:
        """Replace the database by the backup."""
        self._restore(dump, self.database)

    def _restore(self, dump: Path, name: str) -> None:
        self.postgres.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.postgres.psql(f"CREATE DATABASE {name} TEMPLATE template0")
        command = [str(self.postgres.programs / "psql"), "-Xq", "-v", "ON_ERROR_STOP=1", "-f", str(dump)]
        subprocess.run([*command, "-d", self.postgres.url(name)], check=True, capture_output=True, timeout=60)

    def clone_database(self) -> str:
        """Restore a dump under another name, while all processes run. Return the URL of the copy."""
        name = f"{self.database}_clone"
        self._restore(self.dump_database(), name)
        return self.postgres.url(name)

    def add_standby(self) -> PostgresServer:
        """Return a standby, not yet started, that receives nothing more."""
        standby = lagging_standby(self.postgres, self.directory / f"postgres-{len(self.others) + 2}")
        self.others.append(standby)
        return standby

    def use_postgres(self, server: PostgresServer) -> None:
        """Let all addresses of Postgres, those of `proxies` included, lead to another server."""
        for route, proxy in self.proxies.items():
            if route.endswith("postgres"):
                proxy.target = server.port
                proxy.cut()
        self.postgres, self.database_url = server, server.url(self.database)

    def stock(self) -> str:
        """Return the stock of each pool as text, for the message of a failed scenario."""
        pools = self.sql(
            "SELECT p.id, p.total, (SELECT count(*) FROM redemptions r WHERE r.pool_id = p.id) AS ledger,"
            " (SELECT count(*) FROM quarantined s WHERE s.pool_id = p.id) AS quarantined FROM pools p ORDER BY p.id"
        )
        return "; ".join(
            f"pool {p['id']}: {p['ledger']} + {p['quarantined']} quarantined of {p['total']}" for p in pools
        )


def wait_for_more(figure: Callable[[], int], more: int, what: str) -> None:
    """Wait until a figure has risen by `more` from its present value."""
    goal = figure() + more
    wait_until(lambda: figure() >= goal, what)
