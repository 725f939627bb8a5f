"""The boundary to Postgres: pools, time limits, advisory locks. Driver exceptions become ours here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg

from issuer.settings import Settings

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PoolConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    PoolConnection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

AnyConnection = Connection | PoolConnection
"""One of its own, or one from a pool."""

# The registry of advisory locks: every lock of the project is one of these numbers, alone or followed by the hash of
# what it locks (`lock_of`). Postgres keeps locks of one number and locks of two apart.
RECOVERY_LOCK: Final = 0x15540001
"""Exclusive while Redis is recovered and blessed, shared while pools are opened in Redis."""
MIGRATION_LOCK: Final = 0x15540002
"""Held by the transaction that migrates the schema."""
SEQ_LOCK: Final = 0x15540003
"""Of one batch: held by the transaction that assigns seqs in it."""
JOB_WORK_LOCK: Final = 0x15540004
"""Of one generation job: held by the session that works on it."""
JOB_OPENING_LOCK: Final = 0x15540005
"""Held by the transaction that creates a generation job, so that the bound on open jobs is exact."""
CAMPAIGN_LOCK: Final = 0x15540006
"""Of one campaign: held while the number of codes that it lacks is determined."""
JOB_WAIT_LOCK: Final = 0x15540007
"""Of one generation job: held by the command that waits for it."""
PUSH_LOCK: Final = 0x15540008
"""Of one batch: held by the session that brings its revisions to Redis."""
BATCH_NAME_LOCK: Final = 0x15540009
"""Of one batch name: held by the transaction that finds a batch by its name or creates it."""

UNAVAILABLE: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server's farewell crosses a statement of ours
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
)
"""What asyncpg raises when Postgres is away, busy or restarting: worth another try, nothing wrong with the data."""


SESSION: Final = {
    "synchronous_commit": "on",
    "application_name": "issuer",
    "timezone": "UTC",
    # A host that is gone without a word must not hold its locks for the two hours that TCP would wait by itself.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    # Nor must a statement that runs for a process that was killed: its locks would keep out the one that goes on.
    "client_connection_check_interval": "1s",
}
"""Settings of every session. Commits are durable before they are answered, whatever the server's default is."""


class PostgresUnavailableError(Exception):
    """Postgres cannot be reached or did not answer in time. What was asked may or may not have happened."""


async def connect_pool(settings: Settings, *, size: int, timeout_s: float | None = None) -> Pool:
    """A pool of at most `size` connections that opens them as they are needed."""
    limit_s = settings.postgres_timeout_s if timeout_s is None else timeout_s
    return await asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=size,
        timeout=min(limit_s, 10.0),
        command_timeout=limit_s,
        server_settings=SESSION,
    )


@asynccontextmanager
async def own_connection(settings: Settings, *, timeout_s: float = 3600.0) -> AsyncIterator[Connection]:
    """A connection for one long piece of work, not from a pool. Session locks end with the block."""
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(),
        timeout=10.0,
        command_timeout=timeout_s,
        server_settings=SESSION,
    )
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=3)
        except UNAVAILABLE:
            connection.terminate()


async def close_pool(pool: Pool) -> None:
    """Closes a pool within a bounded time; connections that are still busy then are cut."""
    try:
        async with asyncio.timeout(3):
            await pool.close()
    except TimeoutError:
        pool.terminate()


@asynccontextmanager
async def unavailable_translated() -> AsyncIterator[None]:
    """Turns the driver's ways of saying that Postgres is away into PostgresUnavailableError."""
    try:
        yield
    except UNAVAILABLE as error:
        raise PostgresUnavailableError(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def advisory_lock(
    connection: Connection | PoolConnection, key: int | tuple[int, int], *, shared: bool = False
) -> AsyncIterator[None]:
    """Hold a session-level advisory lock. Postgres releases it when the connection ends, however the process ends."""
    suffix = "_shared" if shared else ""
    numbers = (key,) if isinstance(key, int) else key
    parameters = "$1" if isinstance(key, int) else "$1, $2"
    await connection.execute(f"SELECT pg_advisory_lock{suffix}({parameters})", *numbers)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute(f"SELECT pg_advisory_unlock{suffix}({parameters})", *numbers)


def lock_of(kind: int, owner: UUID) -> tuple[int, int]:
    """Return the key of one lock: its kind from the registry, and 32 bits of the id of the batch, campaign or job.

    Two owners may share those bits: then they wait for each other without need, and nothing else happens.
    """
    return kind, int.from_bytes(owner.bytes[-4:], "big", signed=True)


def ms(value: Any) -> int:
    """An instant as ms since 1970."""
    return int(value.timestamp() * 1000)
