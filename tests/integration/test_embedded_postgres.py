"""The embedded Postgres starts again, whatever its last run left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from issuer.embedded.datadir import DataDirectory
from issuer.embedded.servers import EmbeddedPostgres, end_orphans
from issuer.settings import Settings
from tests.support.servers import START_LIMIT_S, STOP_LIMIT_S, wait_until

BUSY = "DO $$ BEGIN LOOP END LOOP; END $$"
"""A statement that never waits, so it does not notice that its server is gone."""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    directory = DataDirectory(tmp_path / ".issuer")
    directory.acquire()
    yield directory
    directory.release()


def launch(server: EmbeddedPostgres, log: Path) -> subprocess.Popen[bytes]:
    server.prepare()
    with log.open("wb") as output:
        return subprocess.Popen(server.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output)


async def ready(server: EmbeddedPostgres, process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(START_LIMIT_S):
        while not await server.is_ready():
            assert process.poll() is None, await asyncio.to_thread(log.read_text)
            await asyncio.sleep(0.02)


async def test_a_statement_of_a_killed_server_does_not_prevent_its_restart(
    directory: DataDirectory, tmp_path: Path
) -> None:
    server = EmbeddedPostgres(directory, Settings())
    log = tmp_path / "postgres.log"
    process = launch(server, log)
    await ready(server, process, log)
    connection = await asyncpg.connect(server.url)
    backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
    statement = asyncio.create_task(connection.execute(BUSY))
    await asyncio.to_thread(wait_until, lambda: "DO" in " ".join(backend.cmdline()), "the statement runs")

    end_orphans(directory.postgres)
    assert backend.is_running(), "it is no orphan while its server runs"
    process.kill()
    process.wait(STOP_LIMIT_S)
    assert backend.is_running()

    process = launch(server, log)
    try:
        await ready(server, process, log)
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
        with suppress(asyncpg.PostgresError, OSError):
            await statement
    finally:
        with suppress(psutil.NoSuchProcess):
            backend.kill()
        process.send_signal(server.stop_signal)
        process.wait(STOP_LIMIT_S)


def test_processes_without_title_or_directory_are_not_stopped(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    data.mkdir()
    titled = ["bash", "-c", f"exec -a 'postgres: backend' sleep 600 # {os.getpid()}"]
    with (
        subprocess.Popen(titled, cwd=tmp_path) as elsewhere,
        subprocess.Popen(["sleep", "600"], cwd=data) as another_program,
    ):
        try:
            # In the middle of an exec a process has no command line at all.
            title = ["postgres: backend"]
            wait_until(lambda: psutil.Process(elsewhere.pid).cmdline()[:1] == title, "it has its title")
            end_orphans(data)
            assert elsewhere.poll() is another_program.poll() is None
        finally:
            elsewhere.kill()
            another_program.kill()
