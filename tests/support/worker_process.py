"""The worker as the operating system sees it: started, killed, frozen, stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from issuer.contract.keys import partition_keys
from issuer.settings import Settings
from tests.support.environment import environment_of
from tests.support.forked_processes import StartedProcess, start_program
from tests.support.issuing import plain_client
from tests.support.servers import wait_until

LIMIT_S = 180.0


class WorkerProcess:
    """`python -m sync_worker` with the settings of a test."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        *,
        postgres_timeout_s: float = 10.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment_of(
            settings,
            **(environment or {}),
            ISSUER_MAX_BACKLOG=str(settings.max_backlog),
            ISSUER_POOL_HIGH_WATER=str(settings.pool_high_water),
            ISSUER_POSTGRES_TIMEOUT_S=str(postgres_timeout_s),
        )
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "sync_worker.log"
        self._process: StartedProcess | None = None

    @property
    def process(self) -> StartedProcess:
        assert self._process is not None, "not started"
        return self._process

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self._process = start_program("sync_worker", environment=self._environment, output=log.fileno())
        return self

    def kill9(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        return self.process.wait(LIMIT_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill9()


def record_everything(settings: Settings, directory: Path) -> None:
    """Let a worker record everything that was granted."""
    states = [partition_keys(number).state for number in range(settings.partitions)]
    with WorkerProcess(settings, directory), plain_client(settings.redis_url.get_secret_value()) as redis:
        wait_until(lambda: not any(int(redis.hget(state, "backlog") or 0) for state in states), "no backlog")


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, limit_s: float = LIMIT_S) -> None:
    """Waits for a condition, not for a time."""
    try:
        async with asyncio.timeout(limit_s):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {limit_s} s") from None
