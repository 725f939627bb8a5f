"""Supervised child processes: started, watched, restarted with growing delays, stopped within a time limit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import structlog

log = structlog.get_logger()

CRASH_WINDOW_S: Final = 60.0
MAX_CRASHES: Final = 5
FIRST_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 10.0
READY_POLL_S: Final = 0.02
WAIT_LOG_EVERY_S: Final = 10.0
LOG_TAIL_BYTES: Final = 2_000


class ChildError(Exception):
    """A child did not start, or crashed too often. The message ends with the end of its log."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What a child runs, when it is ready and how it is stopped.

    `prepare` runs in a thread before each start; `command` returns the arguments. Output is appended to `log`, or
    inherited from this process. The child is killed `stop_limit_s` after `stop_signal`. `is_excused` decides, from the
    process id, whether a crash had a cause that is put aside before the next start: such a crash does not count.
    """

    name: str
    command: Callable[[], Sequence[str]]
    is_ready: Callable[[], Awaitable[bool]] | None = None
    prepare: Callable[[], None] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_limit_s: float = 30.0
    log: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()
    is_excused: Callable[[int], Awaitable[bool]] | None = None


class Child:
    """A process that is kept running from `start` to `stop`. `failed` receives the error that ends the attempts."""

    def __init__(self, spec: ChildSpec, failed: asyncio.Future[ChildError]) -> None:
        self.spec = spec
        self._failed = failed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._crashes: list[float] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process and return when it is ready. Raises ChildError when it ends before that."""
        await self._start_once()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    async def _start_once(self) -> None:
        spec = self.spec
        if spec.prepare is not None:
            await asyncio.to_thread(spec.prepare)
        output: IO[bytes] | None = spec.log.open("ab") if spec.log is not None else None
        try:
            self._process = await asyncio.create_subprocess_exec(
                *spec.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **spec.environment},
                pass_fds=spec.descriptors,
            )
        finally:
            if output is not None:
                output.close()
        log.debug("child started", child=spec.name, pid=self._process.pid)
        await self._wait_until_ready(self._process)

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        """Wait without a time limit, and log that: a server that replays a large log must not be interrupted."""
        if self.spec.is_ready is None:
            return
        logged_at = time.monotonic()
        while process.returncode is None:
            if await self.spec.is_ready():
                return
            if time.monotonic() - logged_at > WAIT_LOG_EVERY_S:
                logged_at = time.monotonic()
                log.info("waiting for a child to become ready", child=self.spec.name)
            await asyncio.sleep(READY_POLL_S)
        raise ChildError(f"{self.spec.name} ended with status {process.returncode}{self._log_tail()}")

    def _log_tail(self) -> str:
        path = self.spec.log
        if path is None or not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace")
        return f"; the end of {path}:\n{tail}"

    async def _keep(self) -> None:
        while not self._stopping:
            assert self._process is not None
            status = await self._process.wait()
            if self._stopping:
                return
            try:
                await self._restart(status)
            except ChildError as error:
                if not self._failed.done():
                    self._failed.set_result(error)
                return

    async def _restart(self, status: int) -> None:
        while True:
            delay_s = FIRST_DELAY_S if await self._is_excused() else self._crashed(status)
            log.error("child exited; restarting it", child=self.spec.name, status=status, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self._start_once()
            except (ChildError, OSError) as error:
                log.error("child did not start; retrying", child=self.spec.name, error=str(error))
                status = -1
                continue
            log.info("child works again", child=self.spec.name)
            return

    async def _is_excused(self) -> bool:
        return self.spec.is_excused is not None and self.pid is not None and await self.spec.is_excused(self.pid)

    def _crashed(self, status: int) -> float:
        """Return how long to wait before the next start. Raises ChildError when it crashed too often."""
        now = time.monotonic()
        self._crashes = [at for at in self._crashes if now - at < CRASH_WINDOW_S] + [now]
        if len(self._crashes) > MAX_CRASHES:
            raise ChildError(
                f"{self.spec.name} crashed {len(self._crashes)} times within {CRASH_WINDOW_S:.0f} s, last with"
                f" status {status}{self._log_tail()}"
            )
        return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** (len(self._crashes) - 1))

    async def stop(self) -> None:
        """Stop the process and the supervision; kill the process when its time is over. Idempotent."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(self.spec.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.spec.stop_limit_s)
            except TimeoutError:
                log.error("child did not stop in time; killing it", child=self.spec.name)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
