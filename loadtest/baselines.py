"""The servers that the API is compared with: the floor, and one row-lock transaction for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from loadtest import points_way, postgres_way
from loadtest.drivers import REDEEM_PATH, Load, Target
from loadtest.installation import BenchInstallation
from loadtest.measuring import MeasuredInstallation
from loadtest.processes import LoggedProgram, accepts, free_port, python_module
from loadtest.runs import CONNECTIONS

STATEMENT_LIMIT_S: Final = 3_600.0


@asynccontextmanager
async def floor_server(directory: Path) -> AsyncIterator[tuple[str, MeasuredInstallation]]:
    """Run the floor. Yield its URL and how to measure it."""
    port = free_port()
    program = LoggedProgram(python_module("loadtest.floor", "--port", str(port)), directory / "floor.log")
    program.start(lambda: accepts(port), "the floor")
    try:
        yield f"http://127.0.0.1:{port}{REDEEM_PATH}", MeasuredInstallation.of_process(program.pid)
    finally:
        program.stop()


@asynccontextmanager
async def postgres_way_server(
    directory: Path, installation: BenchInstallation, codes: int
) -> AsyncIterator[tuple[Load, MeasuredInstallation]]:
    """Run the Postgres way with `codes` codes. Yield its load and how to measure it."""
    ids = (uuid4(), uuid4())
    url = await _database(installation, "row_lock_codes", postgres_way.TABLE, postgres_way.FILL, *ids, codes)
    async with _row_lock_server(directory, installation, "loadtest.postgres_way", url) as (server, measured):
        yield Load(f"{server}{REDEEM_PATH}", [Target(*ids)], 0, connections=CONNECTIONS), measured


@asynccontextmanager
async def points_way_server(
    directory: Path, installation: BenchInstallation, accounts: int
) -> AsyncIterator[tuple[dict[int, Load], MeasuredInstallation]]:
    """Run the Postgres way of points. Yield its loads, by how many accounts they are for, and how to measure it.

    Their URL lacks `/earn` or `/spend`.
    """
    url = await _database(installation, "row_lock_points", points_way.TABLE, points_way.FILL, accounts)
    async with _row_lock_server(directory, installation, "loadtest.points_way", url) as (server, measured):
        targets = [Target(UUID(int=0), UUID(int=number)) for number in range(1, accounts + 1)]
        yield (
            {
                count: Load(f"{server}/{{client}}", targets[:count], 0, connections=CONNECTIONS)
                for count in (1, accounts)
            },
            measured,
        )


async def _database(installation: BenchInstallation, name: str, table: str, fill: str, *values: object) -> str:
    """Fill a database of its own in the Postgres of the installation: the same settings and the same disk.

    Return its URL.
    """
    async with installation.postgres() as postgres:
        await postgres.execute(f"CREATE DATABASE {name}")
    url = urlsplit(installation.database_url)._replace(path=f"/{name}").geturl()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(table)
        await connection.execute(fill, *values, timeout=STATEMENT_LIMIT_S)
        await connection.execute("VACUUM ANALYZE", timeout=STATEMENT_LIMIT_S)
    finally:
        await connection.close()
    return url


@asynccontextmanager
async def _row_lock_server(
    directory: Path, installation: BenchInstallation, module: str, database_url: str
) -> AsyncIterator[tuple[str, MeasuredInstallation]]:
    """Run a row-lock server. Yield its URL and how to measure it, with the Postgres that it uses."""
    port = free_port()
    command = python_module(module, "--port", str(port), "--database-url", database_url)
    program = LoggedProgram(command, directory / f"{module}.log")
    program.start(lambda: accepts(port), module)
    try:
        yield f"http://127.0.0.1:{port}", MeasuredInstallation.of_process(program.pid, installation.cpu_s)
    finally:
        program.stop()
