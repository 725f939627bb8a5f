"""An `issuer` command as a process on a test's databases: run to its end, or killed at a stage that the test sees."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from issuer.settings import Settings
from tests.support.environment import environment_of
from tests.support.installation import issuer_command

LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


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
        with self.start(*words, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE) as process:
            return await ended(process, stdin)

    def write(self, data: bytes, name: str = "codes.csv") -> str:
        (self.directory / name).write_bytes(data)
        return name


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
