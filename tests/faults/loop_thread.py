"""An event loop in a thread of its own: traffic and proxies run while the scenario waits for a server to start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import asyncpg

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for the main thread. Servers are started by the main thread, whose exit kills them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="customers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def fetch(self, database_url: str, query: str, *args: object) -> list[Any]:
        """Return the rows of a query, on a connection of its own."""

        async def rows() -> list[Any]:
            connection = await asyncpg.connect(database_url, timeout=20)
            try:
                return list(await connection.fetch(query, *args))
            finally:
                await connection.close()

        return self.run(rows())

    def call(self, function: Callable[[], T]) -> T:
        """Call a function on the loop and return its result; no coroutine runs meanwhile."""

        async def once() -> T:
            return function()

        return self.run(once())

    async def _end_tasks(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
