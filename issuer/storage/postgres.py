"""The boundary to Postgres: pools, time limits, advisory locks. Driver exceptions are translated here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
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
INDEX_LOCK: Final = 0x1554000F
"""Held by the session that builds indexes before a migration."""
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
    """A connection of a pool. What resets it on its return sets SESSION again, in the same round trip.

    `is_unchanged`: its user leaves nothing in its session (`stateless`), so that there is nothing to reset.
    """

    is_unchanged = False

    def leave_unchanged(self) -> None:
        self.is_unchanged = True

    def get_reset_query(self) -> str:
        if self.is_unchanged:
            self.is_unchanged = False
            return ""
        return f"{super().get_reset_query()}\n{_set(SESSION)}"


class _SparingPool(asyncpg.Pool):
    """A pool that resets no connection behind a single statement of its own: that would be a second round trip."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if not args:  # perhaps several statements, and among them SET
            return await super().execute(query, **options)
        return str(await self._run("execute", query, args, options))

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._run("fetch", query, args, options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._run("fetchrow", query, args, options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._run("fetchval", query, args, options)

    async def _run(self, method: str, query: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        async with stateless(self) as connection:
            return await getattr(connection, method)(query, *args, **options)


@asynccontextmanager
async def stateless(pool: Pool) -> AsyncIterator[PoolConnection]:
    """Acquire a connection for work that leaves nothing in its session: no setting, no session lock, no LISTEN.

    It returns to the pool without the round trip of a reset. What a transaction sets for itself alone ends with it.
    """
    async with pool.acquire() as connection:
        # The proxy passes it on, which its types do not say.
        connection.leave_unchanged()  # type: ignore[attr-defined]
        yield connection


async def connect_pool(settings: Settings, *, size: int, timeout_s: float | None = None) -> Pool:
    """Return a pool that opens up to `size` connections as they are needed.

    `timeout_s` bounds each statement; None: the setting postgres_timeout_s.
    """
    limit_s = settings.postgres_timeout_s if timeout_s is None else timeout_s
    return await _SparingPool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        timeout=min(limit_s, 10.0),
        command_timeout=limit_s,
        connection_class=_PoolConnection,
        record_class=asyncpg.Record,
        loop=None,
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
