"""An `issuer` command as a process on a test's databases: run to its end, or killed at a stage that the test sees."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import asyncpg
import psutil
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from issuer.settings import Settings
from tests.support.environment import environment_of
from tests.support.forked_processes import Done, run_command_forked
from tests.support.installation import issuer_command

LIMIT_S: Final = 120.0


class Command:
    """`issuer`, or the command of it with this name, in a directory of its own."""

    def __init__(self, settings: Settings, directory: Path, *name: str) -> None:
        self.name = name
        self.directory = directory
        self.environment = environment_of(settings, COLUMNS="200")

    def start(
        self, *words: str, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            issuer_command(*self.name, *words),
            env=self.environment, cwd=self.directory, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip

    async def __call__(self, *words: str, stdin: bytes | None = None) -> Done:
        command = (*self.name, *words)
        return await asyncio.to_thread(run_command_forked, command, self.environment, self.directory, stdin)

    def write(self, data: bytes, name: str = "codes.csv") -> str:
        (self.directory / name).write_bytes(data)
        return name


class CommandInProcess:
    """`issuer`, or the command of it with this name, within the process of a test that is no coroutine.

    For refusals: they are many, and to start a process takes longer than any of them.
    """

    def __init__(self, settings: Settings, directory: Path, monkeypatch: pytest.MonkeyPatch, *name: str) -> None:
        self.name = name
        self.directory = directory
        self._settings = settings
        self.monkeypatch = monkeypatch

    def __call__(self, *words: str) -> Done:
        from issuer.cli import app

        with self.monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("ISSUER_")]:
                patch.delenv(name)
            for name, value in environment_of(self._settings, COLUMNS="200").items():
                patch.setenv(name, value)
            patch.chdir(self.directory)
            # A command configures the logs of its whole process.
            patch.setattr("issuer.logs.configure_logs", lambda *_, **__: None)
            with capture_logs():
                result = CliRunner().invoke(app, [*self.name, *words], prog_name="issuer")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def rows(self, table: str) -> int:
        """Return the number of rows of a table."""

        async def count() -> int:
            connection = await asyncpg.connect(self._settings.database_url.get_secret_value())
            try:
                return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
            finally:
                await connection.close()

        return asyncio.run(count())


async def ended(process: subprocess.Popen[bytes], stdin: bytes | None = None) -> Done:
    out, err = await asyncio.to_thread(process.communicate, stdin, LIMIT_S)
    return Done(process.returncode, out.decode(), err.decode())


async def run_command(settings: Settings, *words: str) -> tuple[int, str]:
    """Run `issuer` with these words; return its exit status and all that it printed."""
    done = await Command(settings, Path.cwd())(*words)
    return done.status, done.out + done.err


async def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], Awaitable[bool]]) -> None:
    """kill -9 at a stage. Freezes the process to look, so that it cannot run past the stage while we do."""
    looked = psutil.Process(process.pid)
    async with asyncio.timeout(LIMIT_S):
        while True:
            assert process.poll() is None, "it ended before the stage was seen"
            looked.suspend()
            if await reached():
                break
            looked.resume()
            await asyncio.sleep(0.003)
    process.kill()
    process.wait()
