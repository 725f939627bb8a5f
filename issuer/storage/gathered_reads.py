"""Gathered reads: what is asked for while a statement is in flight is read by the next one, all on one connection.

So nothing is kept and nothing is stale: whatever is found was read after it was asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

from issuer.storage.look_ups import LookUpsBusyError
from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError, unavailable_translated

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")

MAX_WAITING: Final = 4_096
"""Reads that may wait in one process."""
MAX_GATHERED: Final = 256
KEPT_S: Final = 0.02
"""How long the connection is kept when nothing waits: its return to the pool costs a round trip."""


class GatheredReads(Generic[Key, Found]):
    """Reads by key of one process. Tenants take turns, and each may have as many reads waiting as it leaves room for.

    `read` returns what it finds of the keys; an exception is found for that key alone. `timeout_s` bounds the wait for
    a connection; the pool bounds each statement.
    """

    def __init__(
        self,
        postgres: Pool,
        read: Callable[[AnyConnection, Sequence[Key]], Awaitable[Mapping[Key, Found | Exception]]],
        *,
        timeout_s: float,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._postgres = postgres
        self._read = read
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lines: dict[Hashable, deque[_Reading[Key, Found]]] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def find(self, key: Key, tenant: Hashable) -> Found:
        """Return what is found of a key. Raises the exception that is found, LookUpsBusyError.

        Raises PostgresUnavailableError, too.
        """
        line = self._lines.get(tenant)
        if (0 if line is None else len(line)) >= self._max_waiting - self._waiting:
            raise LookUpsBusyError("too many reads wait")
        if line is None:
            line = self._lines[tenant] = deque()
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        line.append((key, future))
        self._waiting += 1
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="gathered reads")
        return await future

    async def aclose(self) -> None:
        """Refuse what waits."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        while readings := self._gather():
            _settle(readings, PostgresUnavailableError("the process stops"))

    async def _run(self) -> None:
        """Read until nothing waits."""
        while self._waiting:
            readings: list[_Reading[Key, Found]] = []
            try:
                async with unavailable_translated(), self._postgres.acquire(timeout=self._timeout_s) as connection:
                    while readings := self._gather() or await self._later():
                        await self._answer(connection, readings)
            except PostgresUnavailableError as error:
                _settle(readings or self._gather(), error)
            except asyncio.CancelledError:
                _settle(readings, PostgresUnavailableError("the process stops"))
                raise

    async def _later(self) -> list[_Reading[Key, Found]]:
        """Return what arrives in a moment."""
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(KEPT_S):
                await self._arrived.wait()
        return self._gather()

    def _gather(self) -> list[_Reading[Key, Found]]:
        """Take the reads of the next statement, one of each tenant in turn. Empty only if nothing waits."""
        gathered: list[_Reading[Key, Found]] = []
        while self._lines and len(gathered) < MAX_GATHERED:
            tenant = next(iter(self._lines))
            line = self._lines.pop(tenant)
            reading = line.popleft()
            self._waiting -= 1
            if line:
                self._lines[tenant] = line
            if not reading[1].done():  # as it is if the request was cancelled
                gathered.append(reading)
        return gathered

    async def _answer(self, connection: AnyConnection, readings: Sequence[_Reading[Key, Found]]) -> None:
        """Read the keys at once, or, if one of them fails the statement, in halves until it is alone."""
        try:
            async with unavailable_translated():
                found = await self._read(connection, list({key for key, _ in readings}))
        except PostgresUnavailableError:
            raise
        except Exception as error:
            if len(readings) == 1:
                _settle(readings, error)
                return
            middle = len(readings) // 2
            await self._answer(connection, readings[:middle])
            await self._answer(connection, readings[middle:])
            return
        for reading in readings:
            settle_future(reading[1], found[reading[0]])


_Reading = tuple[Key, asyncio.Future[Found]]


def _settle(readings: Sequence[_Reading[Key, Found]], found: Found | Exception) -> None:
    for _, future in readings:
        settle_future(future, found)


def settle_future(future: asyncio.Future[Found], found: Found | Exception) -> None:
    """Give a future its result or exception, unless it has one or its caller does not wait any more."""
    if future.done():
        return
    if isinstance(found, Exception):
        future.set_exception(found)
    else:
        future.set_result(found)
