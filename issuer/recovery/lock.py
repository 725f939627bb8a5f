"""The recovery lock: one process recovers at a time, and a frozen one does not block the others.

A frozen process keeps its connection to Postgres and with it the lock. A process that waits for the lock therefore
terminates the holder's session when Postgres has not heard from it for a while. A live holder sends a statement once a
second, also while it works with Redis. A holder that was frozen finds the lock lost before it sends anything to Redis.
(Postgres' own limits for idle sessions do not apply in the middle of an exchange, where a client may freeze, too.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from issuer.settings import Settings
from issuer.storage.ending import end_tasks
from issuer.storage.postgres import RECOVERY_LOCK, Connection, own_connection
from issuer.storage.redis_link import Link, Value

log = structlog.get_logger()

SILENT_FOR: Final = 3
"""Multiple of `postgres_timeout_s` after which a silent holder counts as frozen."""
REPORT_EVERY_S: Final = 1.0
RETRY_EVERY_S: Final = 0.1

_END_FROZEN: Final = "SELECT end_frozen_recovery($1, $2)"
"""A function of the schema: no role of a process may see or end the sessions of another role."""


@asynccontextmanager
async def recovery_lock(settings: Settings) -> AsyncIterator[Connection]:
    """Wait for the lock, however long other processes recover, and yield the connection that holds it.

    The connection is its own: the statements of a recovery have no short time limit.
    """
    async with own_connection(settings) as connection:
        # Polled, so that a statement's time limit does not bound the wait for another recovery.
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RECOVERY_LOCK):
            ended = await connection.fetch(_END_FROZEN, RECOVERY_LOCK, settings.postgres_timeout_s * SILENT_FOR)
            if ended:
                log.warning("ended the session of a frozen process that held the recovery lock", sessions=len(ended))
            await asyncio.sleep(RETRY_EVERY_S)
        yield connection


class HeldLink:
    """A recovery's link to Redis. It sends nothing once the recovery lock is lost."""

    def __init__(self, link: Link, postgres: Connection) -> None:
        self._link = link
        self._postgres = postgres
        self._reported_at = time.monotonic()
        self._one_at_a_time = asyncio.Lock()

    @property
    def run_id(self) -> str:
        return self._link.run_id

    async def call(self, commands: Sequence[Sequence[Value]], *, timeout_s: float) -> list[Any]:
        """Call `Link.call`. Raises the error of asyncpg when the connection that holds the lock has ended."""
        async with self._one_at_a_time:
            await self._report()
            return await self._link.call(commands, timeout_s=timeout_s)

    async def _report(self) -> None:
        # Also the check of the lock: on a terminated session the statement fails, and nothing is sent to Redis.
        if time.monotonic() - self._reported_at > REPORT_EVERY_S:
            await self._postgres.execute("SELECT")
            self._reported_at = time.monotonic()

    async def at_once(self, *works: Coroutine[Any, Any, object]) -> None:
        """Do all of this at once, and report meanwhile: the work waits for Postgres on connections of its own.

        The connection that holds the lock is not used for anything else until all of it is done. The first error ends
        the rest.
        """
        tasks = [asyncio.create_task(work) for work in works]
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, timeout=REPORT_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
                async with self._one_at_a_time:
                    await self._report()
        finally:
            await end_tasks(*tasks)
