"""Poolers in front of Postgres, such as PgBouncer: whether a connection is one session, which the service needs.

Advisory locks, temporary tables, prepared statements and settings belong to a session. A pooler that gives a connection
another session for each transaction (`pool_mode = transaction`) loses them, and with them locks that keep a recovery
from running twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from issuer.settings import Settings
from issuer.storage.postgres import Connection, Pool, unavailable_translated

ROUNDS: Final = 5
"""Attempts to see two connections share a session. A pooler assigns the session that was returned last, so one
attempt is enough where no other client comes in between."""
WAIT_S: Final = 2.0
"""How long a second session is waited for. A pooler that has no more gives none while the first one keeps its own."""

PROBLEM: Final = (
    "a pooler between the service and Postgres changes the session with each {unit} (PgBouncer: pool_mode = {unit}):"
    " locks would be lost; use pool_mode = session or connect to Postgres directly"
)
_BACKEND: Final = "SELECT pg_backend_pid()"


class PoolingError(Exception):
    """Connections to Postgres are no sessions. The message says what to change."""


async def pooling_problem(settings: Settings) -> str | None:
    """Return why the connections of this database URL are no sessions; None: they are.

    Opens one connection, and further ones where a pooler answers it. Raises PostgresUnavailableError.
    """
    async with unavailable_translated(), _connection(settings) as first:
        try:
            mine = await _session_of(first)
            # A pooler invents the process id that its clients receive.
            if mine == first.get_server_pid():
                return None
            for _ in range(ROUNDS):
                if await _shares_session(settings, first, mine):
                    return PROBLEM.format(unit="transaction")
        except asyncpg.PostgresConnectionError as error:
            if "statement pooling" in str(error):
                return PROBLEM.format(unit="statement")
            raise
    return None


async def refuse_pooling(settings: Settings, postgres: Pool | None = None) -> None:
    """Raise PoolingError if the connections of this database URL are no sessions.

    With a pool of that URL, one look at a connection of the pool is enough where there is no pooler. Raises
    PostgresUnavailableError.
    """
    if postgres is not None and await _reaches_server(postgres):
        return
    if (problem := await pooling_problem(settings)) is not None:
        raise PoolingError(problem)


async def _reaches_server(postgres: Pool) -> bool:
    """Return whether a connection is seen to have a session of its own; False: perhaps not, `pooling_problem` says."""
    async with unavailable_translated():
        try:
            async with postgres.acquire() as connection, connection.transaction():
                # A pooler invents the process id that its clients receive.
                return bool(await connection.fetchval(_BACKEND) == connection.get_server_pid())
        except asyncpg.PostgresError:
            return False


async def _shares_session(settings: Settings, first: Connection, mine: int) -> bool:
    """Return whether another connection gets the session of the first, or the first gets another one meanwhile."""
    async with _connection(settings) as second:
        try:
            await second.execute("BEGIN", timeout=WAIT_S)
        except TimeoutError:
            return False
        return await second.fetchval(_BACKEND) == mine or await _session_of(first) != mine


async def _session_of(connection: Connection) -> int:
    """Return the process id of the server that executes a transaction of this connection."""
    await connection.execute("BEGIN")
    found: int = await connection.fetchval(_BACKEND)
    await connection.execute("COMMIT")
    return found


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[Connection]:
    limit_s = min(settings.postgres_timeout_s, 10.0)
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(), timeout=limit_s, command_timeout=limit_s, statement_cache_size=0
    )
    try:
        yield connection
    finally:
        connection.terminate()
