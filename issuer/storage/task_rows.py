"""Rows of maintenance tasks: each is processed by itself, and one that cannot be processed does not stop the others.

Before a task works on a row, a mark with the session of its worker is stored in `task_rows`. Afterwards the mark is
removed, or it becomes the record of a **failed row**: the error, how often and since when. A failed row is skipped
until its next attempt, each after a longer pause, or until the row changes, or until an operator asks for an attempt.

The session is an advisory lock that a connection of the worker holds. It ends with the process, however that ends. So a
mark without its session is a row during whose processing a worker crashed: the next worker records that and skips the
row as well. That needs no supervisor and no file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import asyncpg
import structlog

from issuer.contract.keys import partition_keys
from issuer.settings import Settings
from issuer.storage.postgres import (
    SESSION,
    WORKER_LOCK,
    Connection,
    PostgresUnavailableError,
    connect,
    own_connection,
    unavailable_translated,
)
from issuer.storage.redis_link import NotReadyError, RedisUnavailableError, redis_errors_translated
from issuer.storage.stores import Stores

log = structlog.get_logger()

RETRY_S: Final = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Pauses before the next attempt, by the number of failures in a row; the last for all further ones."""
MAX_ERROR: Final = 2_000
WHOLE_TASK: Final = ""
"""The row of an error outside any row, such as in the query that lists them."""
_LOOK_EVERY_S: Final = 10.0

T = TypeVar("T")
Raised = tuple[type[Exception], ...]


class RowWork(Protocol):
    """The way in which a task works on its rows. Rows are named by the text of their ids."""

    async def due(self, task: str, candidates: Mapping[str, int], *, complete: bool = True) -> list[str]:
        """Return the rows that may be worked on now, in order.

        `candidates`: rows that need work, each with a number that changes when the row does. `complete`: there are no
        others, so records of other rows are removed.
        """

    async def work(
        self, task: str, row: str, act: Callable[[], Awaitable[T]], *, version: int = 0, raises: Raised = ()
    ) -> T | None:
        """Call `act` for one row and return its result; None: the row was skipped, or has failed and is recorded.

        Raises the errors in `raises`, and the errors of stores that are unavailable.
        """

    async def work_together(
        self, task: str, rows: Mapping[str, int], act: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    ) -> list[str]:
        """Call `act` once for several rows, each with its version. Return the rows that must be worked on alone.

        Those are the ones that `act` returns, all of them if it raises an error, and those that it never gets: rows
        with a record, which have failed before and would take the others with them. Raises the errors of stores that
        are unavailable.
        """


class Unguarded:
    """Works on every row and raises its error: for a caller that has no other rows to protect."""

    async def due(self, task: str, candidates: Mapping[str, int], *, complete: bool = True) -> list[str]:
        return list(candidates)

    async def work(
        self, task: str, row: str, act: Callable[[], Awaitable[T]], *, version: int = 0, raises: Raised = ()
    ) -> T | None:
        return await act()

    async def work_together(
        self, task: str, rows: Mapping[str, int], act: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    ) -> list[str]:
        try:
            return list(await act(list(rows)))
        except Exception:
            return list(rows)


UNGUARDED: Final = Unguarded()


class TaskRows:
    """The rows of all maintenance tasks of one worker process. Close it at the end."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._name = f"{_process_name(os.getpid())}{secrets.token_hex(4)}"
        self._connection: Connection | None = None
        self._session = 0
        self._turn = asyncio.Lock()
        self._clean_until: dict[str, float] = {}

    async def due(self, task: str, candidates: Mapping[str, int], *, complete: bool = True) -> list[str]:
        if not candidates and time.monotonic() < self._clean_until.get(task, 0.0):
            return []
        rows = await self._fetch(_OF_TASK, task)
        if any(row["session"] not in (None, self._session) for row in rows):
            await self.record_dead_workers()
            rows = await self._fetch(_OF_TASK, task)
        if complete and any(row["row_id"] not in candidates for row in rows):
            await self._fetch(_FORGET_OTHERS, task, [*candidates, WHOLE_TASK])
        if not rows:
            self._clean_until[task] = time.monotonic() + _LOOK_EVERY_S
        skipped = {
            row["row_id"]
            for row in rows
            if row["session"] not in (None, self._session)
            or (row["waits"] and row["version"] == candidates.get(row["row_id"]))
        }
        return [row for row in candidates if row not in skipped]

    async def work(
        self, task: str, row: str, act: Callable[[], Awaitable[T]], *, version: int = 0, raises: Raised = ()
    ) -> T | None:
        if not await self._mark(task, row, version):
            return None
        try:
            result = await act()
        except Exception as error:
            if isinstance(error, raises) or await self._is_of_stores(error):
                await self._unmark(task, [row])
                raise
            await self.fail(task, row, error, version=version)
            return None
        except BaseException:
            await self._unmark(task, [row])
            raise
        await self._fetch(_FORGET, task, [row])
        return result

    async def work_together(
        self, task: str, rows: Mapping[str, int], act: Callable[[Sequence[str]], Awaitable[Sequence[str]]]
    ) -> list[str]:
        marked = await self._mark_new(task, rows)
        try:
            alone = set(await act(marked)) if marked else set[str]()
        except Exception as error:
            if await self._is_of_stores(error):
                await self._unmark(task, marked)
                raise
            alone = set(marked)
        except BaseException:
            await self._unmark(task, marked)
            raise
        await self._fetch(_FORGET, task, marked)
        return [row for row in rows if row in alone or row not in marked]

    async def fail(self, task: str, row: str, error: Exception, *, version: int = 0) -> None:
        """Record an error of a row, or of the WHOLE_TASK. Raises PostgresUnavailableError."""
        text = f"{type(error).__name__}: {error}".replace("\0", "\\0")[:MAX_ERROR]
        self._clean_until.pop(task, None)
        (recorded,) = await self._fetch(_FAIL, task, row, version, text, list(RETRY_S))
        if recorded["failures"] == 1:
            log.error(
                "a maintenance task cannot process a row; skipping it, retrying later: see `issuer maintenance list`",
                task=task, row=row, exc_info=error,
            )  # fmt: skip

    async def forget(self, task: str, row: str) -> None:
        """Remove the record of a row that was processed elsewhere. Raises PostgresUnavailableError."""
        await self._fetch(_FORGET, task, [row])

    async def record_dead_workers(self) -> int:
        """Turn the marks of workers that have ended into records of failed rows; return how many there were."""
        rows = await self._fetch(_RECORD_DEAD, WORKER_LOCK, list(RETRY_S))
        for row in rows:
            self._clean_until.pop(row["task"], None)
            log.error("a worker crashed while it processed a row; skipping it, retrying later", **dict(row))
        return len(rows)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _mark(self, task: str, row: str, version: int) -> bool:
        """Mark a row as being processed. False: another worker processes it, or it must not be tried yet."""
        async with self._turn, unavailable_translated():
            connection = await self._connected()
            return bool(await connection.fetch(_MARK, task, row, version, self._name, self._session))

    async def _mark_new(self, task: str, rows: Mapping[str, int]) -> list[str]:
        """Mark the rows that have neither a record nor a mark. Return them, in order."""
        async with self._turn, unavailable_translated():
            connection = await self._connected()
            found = await connection.fetch(_MARK_NEW, task, list(rows), list(rows.values()), self._name, self._session)
        marked = {row["row_id"] for row in found}
        return [row for row in rows if row in marked]

    async def _unmark(self, task: str, rows: Sequence[str]) -> None:
        # If Postgres is unavailable the marks stay. They are this worker's, which takes the rows again.
        with suppress(PostgresUnavailableError):
            await self._fetch(_UNMARK, task, rows)

    async def _is_of_stores(self, error: Exception) -> bool:
        """Return whether an error says that a store is unavailable, and the store is indeed.

        A store that answers is not the cause: the error comes from the row, such as a statement that always times out.
        """
        if not isinstance(error, (PostgresUnavailableError, RedisUnavailableError)):
            return False
        redis = self._stores.redis
        try:
            async with unavailable_translated():
                await self._stores.postgres.fetchval("SELECT 1")
            async with redis_errors_translated():
                pipeline = redis.client.pipeline(transaction=False)
                for partition in range(redis.partitions):
                    pipeline.hget(partition_keys(partition).state, "epoch")
                epochs = await pipeline.execute()
            if any(epoch != b"%d" % redis.epoch for epoch in epochs):
                raise NotReadyError("the data set carries another epoch")
        except (PostgresUnavailableError, RedisUnavailableError):
            return True
        return False

    async def _fetch(self, query: str, *values: object) -> list[asyncpg.Record]:
        async with self._turn, unavailable_translated():
            connection = await self._connected()
            return await connection.fetch(query, *values)

    async def _connected(self) -> Connection:
        """Return the connection. A new one holds a new session; marks of this process's earlier one are removed."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        settings = self._stores.settings
        # A lost mark costs one more crash, so it need not wait for the disk.
        options = SESSION | {"synchronous_commit": "off", "application_name": "issuer sync_worker rows"}
        limit_s = settings.postgres_timeout_s
        connection = await connect(settings, timeout_s=min(10.0, limit_s), limit_s=limit_s, session=options)
        try:
            session = secrets.randbelow(2**31 - 1) + 1
            await connection.execute("SELECT pg_advisory_lock($1, $2)", WORKER_LOCK, session)
            await connection.execute(_UNMARK_MINE, self._name)
        except BaseException:
            connection.terminate()
            raise
        self._connection, self._session = connection, session
        return connection


async def crashed_at_a_row(settings: Settings, pid: int) -> bool:
    """Return whether a worker of this host, which has ended, was processing a row. Raises PostgresUnavailableError."""
    async with unavailable_translated(), own_connection(settings, timeout_s=5.0) as connection:
        return bool(await connection.fetchval(_WAS_AT_A_ROW, _process_name(pid)))


def _process_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:"


_PAUSE: Final = "make_interval(secs => ({pauses}::float8[])[least({failures}, cardinality({pauses}::float8[]))])"

_OF_TASK: Final = "SELECT row_id, version, session, retry_at > now() AS waits FROM task_rows WHERE task = $1"

_MARK: Final = """
INSERT INTO task_rows AS t (task, row_id, version, worker, session) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (task, row_id) DO UPDATE SET worker = excluded.worker, session = excluded.session,
  version = excluded.version
WHERE (t.session IS NULL OR t.session = excluded.session)
  AND (t.retry_at IS NULL OR t.retry_at <= now() OR t.version <> excluded.version)
RETURNING 1"""

_MARK_NEW: Final = """
INSERT INTO task_rows (task, row_id, version, worker, session)
SELECT $1, e.row_id, e.version, $4, $5 FROM unnest($2::text[], $3::bigint[]) AS e(row_id, version) ORDER BY e.row_id
ON CONFLICT DO NOTHING RETURNING row_id"""

_FORGET: Final = "DELETE FROM task_rows WHERE task = $1 AND row_id = ANY($2::text[])"

_FORGET_OTHERS: Final = "DELETE FROM task_rows WHERE task = $1 AND session IS NULL AND NOT row_id = ANY($2::text[])"

_UNMARK: Final = """
WITH unmarked AS (
  UPDATE task_rows SET worker = NULL, session = NULL WHERE task = $1 AND row_id = ANY($2::text[]) AND failures > 0)
DELETE FROM task_rows WHERE task = $1 AND row_id = ANY($2::text[]) AND failures = 0"""

_UNMARK_MINE: Final = """
WITH unmarked AS (UPDATE task_rows SET worker = NULL, session = NULL WHERE worker = $1 AND failures > 0)
DELETE FROM task_rows WHERE worker = $1 AND failures = 0"""

_FAIL: Final = f"""
INSERT INTO task_rows AS t (task, row_id, version, failures, error, first_at, last_at, retry_at)
VALUES ($1, $2, $3, 1, $4, now(), now(), now() + {_PAUSE.format(pauses="$5", failures="1")})
ON CONFLICT (task, row_id) DO UPDATE SET version = excluded.version, worker = NULL, session = NULL,
  failures = t.failures + 1, error = excluded.error, first_at = coalesce(t.first_at, now()), last_at = now(),
  retry_at = now() + {_PAUSE.format(pauses="$5", failures="t.failures + 1")}
RETURNING failures"""

_RECORD_DEAD: Final = f"""
UPDATE task_rows t SET worker = NULL, session = NULL, failures = failures + 1,
  error = 'the worker ' || worker || ' crashed while it processed this row', first_at = coalesce(first_at, now()),
  last_at = now(), retry_at = now() + {_PAUSE.format(pauses="$2", failures="failures + 1")}
WHERE session IS NOT NULL AND NOT EXISTS (
  SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = $1::bigint::oid
    AND l.objid = t.session::oid AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
RETURNING task, row_id AS row, failures, error"""

_WAS_AT_A_ROW: Final = "SELECT EXISTS (SELECT FROM task_rows WHERE starts_with(worker, $1))"
