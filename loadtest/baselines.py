"""The servers that redeem is compared with: the floor and the Postgres way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from loadtest.drivers import REDEEM_PATH, Load, Target
from loadtest.installation import BenchInstallation
from loadtest.measuring import MeasuredInstallation
from loadtest.postgres_way import FILL, TABLE
from loadtest.processes import LoggedProgram, accepts, free_port, python_module
from loadtest.runs import CONNECTIONS


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
    """Run the Postgres way with `codes` codes. Yield its load and how to measure it.

    It uses a database of its own in the Postgres of the installation: the same settings and the same disk.
    """
    target = Target(uuid4(), uuid4())
    async with installation.postgres() as postgres:
        await postgres.execute("CREATE DATABASE row_lock")
    parts = urlsplit(installation.database_url)
    url = parts._replace(path="/row_lock").geturl()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLE)
        await connection.execute(FILL, target.batch_id, target.client_id, codes, timeout=3_600)
        await connection.execute("VACUUM ANALYZE row_lock_codes", timeout=3_600)
    finally:
        await connection.close()
    port = free_port()
    command = python_module("loadtest.postgres_way", "--port", str(port), "--database-url", url)
    program = LoggedProgram(command, directory / "postgres-way.log")
    program.start(lambda: accepts(port), "the Postgres way")
    try:
        load = Load(f"http://127.0.0.1:{port}{REDEEM_PATH}", [target], 0, connections=CONNECTIONS)
        yield load, MeasuredInstallation.of_process(program.pid, installation.cpu_s)
    finally:
        program.stop()
