"""A watch of a table: what a process has of it in memory is read again, until the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import structlog

from issuer.storage.postgres import PostgresUnavailableError

log = structlog.get_logger()


class TableWatch:
    """Calls `refresh` every `every_s`. A failure is logged once, however often it repeats, and ends nothing.

    `what`: what is loaded, for the log.
    """

    def __init__(self, refresh: Callable[[], Awaitable[None]], every_s: float, what: str) -> None:
        self._refresh = refresh
        self._every_s = every_s
        self._what = what
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to watch."""
        self._task = asyncio.create_task(self._run(), name=f"watch of {self._what}")

    async def aclose(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        failed = False
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._refresh()
            except (PostgresUnavailableError, asyncpg.PostgresError) as error:
                if not failed:
                    log.warning("Postgres is unavailable; keeping what is loaded", what=self._what, error=str(error))
                failed = True
            except Exception:
                # The watch must not end: no change would ever count again.
                if not failed:
                    log.exception("what is loaded cannot be read again; keeping it", what=self._what)
                failed = True
            else:
                failed = False
