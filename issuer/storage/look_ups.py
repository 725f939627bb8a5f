"""Look-ups in Postgres of what a process does not have in memory, also of what does not exist: both are bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class LookUpsBusyError(Exception):
    """Too much that this process does not have is being looked up."""


class LookUps(Generic[Key, Found]):
    """Look-ups by key: concurrent ones of one key share a query, and a key without a result is known for a moment."""

    MISSING_S: Final = 1.0
    MAX_MISSING: Final = 10_000
    MAX_CONCURRENT: Final = 2
    MAX_LOOK_UPS: Final = 256

    def __init__(self, query: Callable[[Key], Awaitable[Found | None]], name: str) -> None:
        self._query = query
        self._name = name
        self._missing: dict[Key, float] = {}
        self._tasks: dict[Key, asyncio.Task[Found | None]] = {}
        self._callbacks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(self.MAX_CONCURRENT)

    async def find(self, key: Key) -> Found | None:
        """Return what the query finds; None: nothing. Raises what it raises, and LookUpsBusyError."""
        if self._missing.get(key, 0.0) > time.monotonic():
            return None
        task = self._tasks.get(key)
        if task is None:
            if len(self._tasks) >= self.MAX_LOOK_UPS:
                raise LookUpsBusyError(f"too many look-ups of {self._name}")
            task = self._tasks[key] = asyncio.create_task(self._look_up(key), name=f"look-up of {self._name}")
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        # A cancelled caller must not cancel the look-up for the others.
        return await asyncio.shield(task)

    def start(self, key: Key, then: Callable[[Found | Exception | None], None]) -> None:
        """Start `find` for a caller that cannot await it: `then` gets the result, unless this is closed before."""

        async def run() -> None:
            try:
                result: Found | Exception | None = await self.find(key)
            except Exception as error:
                result = error
            then(result)

        task = asyncio.create_task(run(), name=f"wait for {self._name}")
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    def forget(self) -> None:
        """Forget what was not found."""
        self._missing.clear()

    async def aclose(self) -> None:
        """Cancel all look-ups; their callbacks are not called."""
        tasks: set[asyncio.Task[Any]] = {*self._tasks.values(), *self._callbacks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look_up(self, key: Key) -> Found | None:
        async with self._slots:
            found = await self._query(key)
        if found is None:
            if len(self._missing) >= self.MAX_MISSING:
                self._missing.clear()
            self._missing[key] = time.monotonic() + self.MISSING_S
        return found
