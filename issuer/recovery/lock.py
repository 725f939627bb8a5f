"""The lock under which one process recovers, and how it ends if that process stands still.

A process that is frozen keeps its connection to Postgres and with it the lock, and nobody else could ever recover. So
whoever waits for the lock ends a holder's session that Postgres has not heard of for a while. Who is alive is heard of
once a second, also while it is busy with Redis; who wakes up finds the lock lost before it does any more.
(Postgres' own limits for idle sessions do not count in the middle of an exchange, and a client may freeze just there.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from issuer.settings import Settings
from issuer.storage.postgres import RECOVERY_LOCK, Connection, own_connection
from issuer.storage.redis_link import Link, Value

log = structlog.get_logger()

SILENT_FOR: Final = 3
"""Times `postgres_timeout_s`: a holder that was not heard of for so long is taken to be frozen."""
HEARD_EVERY_S: Final = 1.0
ASK_EVERY_S: Final = 0.1

_END_FROZEN: Final = """
SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND (l.classid, l.objid, l.objsubid) = (0, $1::bigint::oid, 1)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND a.wait_event_type = 'Client' AND a.state_change < clock_timestamp() - $2::float8 * interval '1 second'"""


@asynccontextmanager
async def recovery_lock(settings: Settings) -> AsyncIterator[Connection]:
    """Waits for the lock, however long others recover; it goes with the connection that is given.

    A connection of its own: no statement of a recovery has a short time limit.
    """
    async with own_connection(settings) as connection:
        # Polled, so that the wait is bounded by the recovery that holds it and not by the statement's time limit.
        while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RECOVERY_LOCK):
            ended = await connection.fetch(_END_FROZEN, RECOVERY_LOCK, settings.postgres_timeout_s * SILENT_FOR)
            if ended:
                log.warning("ended the session of a process that held the recovery up", sessions=len(ended))
            await asyncio.sleep(ASK_EVERY_S)
        yield connection


class HeldLink:
    """A recovery's way to Redis: nothing goes over it once the lock is lost."""

    def __init__(self, link: Link, postgres: Connection) -> None:
        self._link = link
        self._postgres = postgres
        self._heard_at = time.monotonic()

    @property
    def run_id(self) -> str:
        return self._link.run_id

    async def call(self, commands: Sequence[Sequence[Value]], *, timeout_s: float) -> list[Any]:
        """As `Link.call`. Raises what asyncpg does when the connection that holds the lock has ended."""
        if time.monotonic() - self._heard_at > HEARD_EVERY_S:
            await self._postgres.execute("SELECT")
            self._heard_at = time.monotonic()
        return await self._link.call(commands, timeout_s=timeout_s)
