"""The boundary to Postgres: pools, time limits, advisory locks. Driver exceptions are translated here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg

from issuer.settings import Settings
from issuer.storage.known_types import KnowingConnection

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    PoolConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    PoolConnection = asyncpg.pool.PoolConnectionProxy
    Pool = asyncpg.Pool

AnyConnection = Connection | PoolConnection
"""A connection from `own_connection`, or one of a pool."""

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
WORKER_LOCK: Final = 0x1554000A
"""Of one session of a worker: held by its connection as long as the process lives."""
ANSWER_LOCK: Final = 0x1554000B
"""Of one Idempotency-Key of administrative requests: held by the transaction of the act."""
COUPON_LOCK: Final = 0x1554000C
"""Of one code of a client, without its case: held by the transaction that creates a coupon with it."""
RESTORE_LOCK: Final = 0x1554000D
"""Held by the session that restores a backup."""
JOURNAL_LOCK: Final = 0x1554000E
"""Of one journal of a dead process: held by a session that settles it; others may settle it as well."""

UNAVAILABLE: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server closes the connection while a statement is on its way
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
)
"""What asyncpg raises while Postgres is unavailable, busy or restarting. The same statement may succeed later."""

FILE_TIMEOUT_S: Final = 86_400.0
"""Time limit of statements that process a whole file of codes, or wait for one that does."""

SESSION: Final = {
    "synchronous_commit": "on",
    "application_name": "issuer",
    "timezone": "UTC",
    # The locks of a host that vanished without closing its connections: TCP by itself would keep them for two hours.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    # The statement of a killed process: until it ends, its locks would block the process that continues the work.
    "client_connection_check_interval": "1s",
}
"""Settings of every session. A commit is on disk before it is answered, whatever the server's default is.

They are set when the session begins, not in the startup message: a pooler refuses parameters there that it does not
know.
"""


class PostgresUnavailableError(Exception):
    """Postgres cannot be reached or did not answer in time. The statement may or may not have taken effect."""


class _PoolConnection(KnowingConnection):
    """A connection of a pool. What resets it on its return sets SESSION again, in the same round trip."""

    def get_reset_query(self) -> str:
        return f"{super().get_reset_query()}\n{_set(SESSION)}"


async def connect_pool(settings: Settings, *, size: int, timeout_s: float | None = None) -> Pool:
    """Return a pool that opens up to `size` connections as they are needed.

    `timeout_s` bounds each statement; None: the setting postgres_timeout_s.
    """
    limit_s = settings.postgres_timeout_s if timeout_s is None else timeout_s
    return await asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=size,
        timeout=min(limit_s, 10.0),
        command_timeout=limit_s,
        connection_class=_PoolConnection,
        init=_begin_session,
    )


async def _begin_session(connection: AnyConnection) -> None:
    await connection.execute(_set(SESSION))


def _set(session: Mapping[str, str]) -> str:
    return "".join(f"SET {name} = '{value}';\n" for name, value in session.items())


async def connect(
    settings: Settings, *, timeout_s: float, limit_s: float, session: Mapping[str, str] = SESSION
) -> Connection:
    """Return a new connection with these settings of its session. `limit_s` bounds each statement."""
    connection = await asyncpg.connect(
        settings.database_url.get_secret_value(), timeout=timeout_s, command_timeout=limit_s,
        connection_class=KnowingConnection,
    )  # fmt: skip
    try:
        await connection.execute(_set(session))
    except BaseException:
        connection.terminate()
        raise
    return connection


@asynccontextmanager
async def own_connection(settings: Settings, *, timeout_s: float = 3600.0) -> AsyncIterator[Connection]:
    """Open a connection outside any pool, for one long piece of work. Its session locks end with the block."""
    connection = await connect(settings, timeout_s=10.0, limit_s=timeout_s)
    try:
        yield connection
    finally:
        try:
            await connection.close(timeout=3)
        except UNAVAILABLE:
            connection.terminate()


async def close_pool(pool: Pool) -> None:
    """Close a pool within 3 s. Connections that are still busy then are terminated."""
    try:
        async with asyncio.timeout(3):
            await pool.close()
    except TimeoutError:
        pool.terminate()


@asynccontextmanager
async def unavailable_translated() -> AsyncIterator[None]:
    """Translate the driver's errors in UNAVAILABLE into PostgresUnavailableError."""
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


def count_of(status: str) -> int:
    """Return the number of rows in a command tag, such as ``INSERT 0 5``."""
    return int(status.rpartition(" ")[2])
