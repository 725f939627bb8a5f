"""Jobs: codes that were asked for, and how many of them there are. A job outlives the process that works at it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import orjson

from issuer.access import audit
from issuer.batches.store import BatchEndedError, find_batch
from issuer.generating.code_format import MAX_CODES, CodeFormat, CodeFormatError, format_text, parse_code_format
from issuer.generating.drawing import draw_code
from issuer.instants import show_instant
from issuer.pools.counters import codes_to_load
from issuer.pools.memory import check_room, codes_bytes
from issuer.storage.postgres import (
    JOB_OPENING_LOCK,
    JOB_WAIT_LOCK,
    JOB_WORK_LOCK,
    UNAVAILABLE,
    AnyConnection,
    Pool,
    lock_of,
    unavailable_translated,
)
from issuer.storage.stores import Stores

MAX_OPEN_JOBS: Final = 32
MAX_OPEN_JOBS_OF_CLIENT: Final = 4
"""Jobs over HTTP that may wait or run at a time."""


class JobLock(IntEnum):
    """What a session may hold of a job, alone: the first half of an advisory lock's key."""

    WORK = JOB_WORK_LOCK
    WAIT = JOB_WAIT_LOCK


class JobNotFoundError(Exception):
    """There is no such job, at least not for this caller."""


class JobIdReusedError(Exception):
    """A job of that id is there, and it is another one."""


class TooManyJobsError(Exception):
    """As many jobs as there may be are not finished yet. Nothing was changed; later."""


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """So many codes of this form, for this client in this batch."""

    batch_id: UUID
    client_id: UUID
    code_format: CodeFormat
    count: int
    actor: str

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_CODES:
            raise CodeFormatError("count", f"must be 1 to {MAX_CODES:,}")


@dataclass(frozen=True, slots=True)
class Job:
    """An order and how far it is. `made` codes are in the batch, and stay there whatever becomes of the rest."""

    id: UUID
    order: GenerationRequest
    made: int
    state: State
    problem: str | None
    created_at: datetime
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    def to_json(self) -> dict[str, Any]:
        """The job as API and command line show it."""
        return {
            "id": str(self.id),
            "batch_id": str(self.order.batch_id),
            "client_id": str(self.order.client_id),
            "state": self.state.value,
            "count": self.order.count,
            "made": self.made,
            "format": self.order.code_format.to_json(),
            "problem": self.problem,
            "created_at": show_instant(self.created_at),
            "finished_at": None if self.finished_at is None else show_instant(self.finished_at),
        }


@dataclass(frozen=True, slots=True)
class GenerationForecast:
    """What an order would do: the warning that its codes are guessed easily, and what they take in Redis."""

    warning: str | None
    redis_bytes: int


async def check_order(stores: Stores, order: GenerationRequest) -> GenerationForecast:
    """Whether an order can be accepted now. Changes nothing.

    Codes of the same form that earlier jobs made or will make in the batch count, too. Raises CodeSpaceError,
    FewCodesError, BatchNotFoundError, BatchEndedError, RedisMemoryError, RedisUnavailableError,
    PostgresUnavailableError.
    """
    batch = await find_batch(stores.postgres, order.batch_id)
    if batch.expired:
        raise BatchEndedError("the batch has ended: no codes can be added")
    async with unavailable_translated():
        row = await stores.postgres.fetchrow(_BEFORE, order.batch_id, format_text(order.code_format), order.client_id)
    assert row is not None
    warning = order.code_format.check_space(order.count + int(row["of_this_form"]))
    bytes_needed = await redis_bytes(stores, order, total=row["total"])
    await check_room(stores.redis, bytes_needed)
    return GenerationForecast(warning, bytes_needed)


async def redis_bytes(stores: Stores, order: GenerationRequest, *, total: int = 0) -> int:
    """Estimate of the Redis memory for the codes that would go there, in a pool with a total of `total` before."""
    to_push = await codes_to_load(stores, order.batch_id, {order.client_id: total + order.count})
    return codes_bytes(to_push, to_push * len(draw_code(order.code_format).encode()))


async def ask_for_codes(
    stores: Stores, order: GenerationRequest, *, job_id: UUID | None = None, bounded: bool = False
) -> Job:
    """Takes an order on: from here on it will be done, by whoever works at it, unless its batch ends.

    With a `job_id` chosen by the caller the same order again is the same job. `bounded` limits how many jobs may be
    open. Raises as `check_order` does, nothing changed; also JobIdReusedError and TooManyJobsError.
    """
    if job_id is not None and (known := await _known(stores.postgres, job_id, order)) is not None:
        return known
    await check_order(stores, order)
    job_id = job_id or uuid4()
    async with unavailable_translated(), stores.postgres.acquire() as connection:
        try:
            async with connection.transaction():
                return await _insert(connection, job_id, order, bounded=bounded)
        except asyncpg.UniqueViolationError:
            pass
    known = await _known(stores.postgres, job_id, order)
    assert known is not None, "jobs are never deleted"
    return known


async def find_job(
    postgres: Pool | AnyConnection, job_id: UUID, *, batch_id: UUID | None = None, client_id: UUID | None = None
) -> Job:
    """Raises JobNotFoundError, also where it is not of that batch or that client; PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(
            f"{JOB_SELECT} WHERE id = $1 AND coalesce(batch_id = $2, true) AND coalesce(client_id = $3, true)",
            job_id, batch_id, client_id,
        )  # fmt: skip
    if row is None:
        raise JobNotFoundError(f"there is no job {job_id}")
    return job_from_row(row)


async def only_client(postgres: Pool, batch_id: UUID) -> UUID | None:
    """The client of a batch that has just one; None: it has none yet. Raises CodeFormatError if it has several."""
    async with unavailable_translated():
        rows = await postgres.fetch("SELECT client_id FROM pools WHERE batch_id = $1 LIMIT 2", batch_id)
    if len(rows) > 1:
        raise CodeFormatError("client_id", "is needed: the batch has several clients")
    return UUID(bytes=rows[0]["client_id"].bytes) if rows else None


async def oldest_open(connection: AnyConnection) -> list[Job]:
    """Some of the jobs that are not finished, those that have waited longest."""
    return [job_from_row(row) for row in await connection.fetch(_OLDEST_OPEN)]


async def touch(connection: AnyConnection, job_id: UUID) -> Job:
    """Puts a job at the end of the queue."""
    return await _changed(connection, "touched_at = clock_timestamp()", job_id)


async def add_made(connection: AnyConnection, job_id: UUID, added: int) -> Job:
    """To be called in the transaction that inserts the codes, by whoever holds the job."""
    return await _changed(
        connection, "made = made + $2, state = 'running', touched_at = clock_timestamp()", job_id, added
    )


async def end_job(connection: AnyConnection, job_id: UUID, state: State, problem: str | None = None) -> Job:
    return await _changed(
        connection, "state = $2, problem = $3, finished_at = coalesce(finished_at, now())", job_id, state.value, problem
    )


async def mark_told(postgres: Pool, job_id: UUID) -> None:
    """Whoever asked for the job knows how it ended: the same command again is a new order."""
    async with unavailable_translated():
        await postgres.execute(
            "UPDATE generation_jobs SET announced_at = now() WHERE id = $1 AND announced_at IS NULL", job_id
        )


@asynccontextmanager
async def held(connection: AnyConnection, job_id: UUID, hold: JobLock = JobLock.WORK) -> AsyncIterator[bool]:
    """Whether this session is the one that works at the job (or waits for it), for the block.

    It ends with the process that dies. Who works inserts over the same session: without the lock nothing more comes.
    """
    key = lock_of(hold.value, job_id)
    is_mine = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *key)
    try:
        yield bool(is_mine)
    finally:
        if is_mine and not connection.is_closed():
            with suppress(*UNAVAILABLE):  # then it is gone with the session
                await connection.execute("SELECT pg_advisory_unlock($1, $2)", *key)


def job_from_row(row: asyncpg.Record) -> Job:
    """From a row of JOB_SELECT."""
    order = GenerationRequest(
        batch_id=UUID(bytes=row["batch_id"].bytes),
        client_id=UUID(bytes=row["client_id"].bytes),
        code_format=parse_code_format(orjson.loads(row["format"])),
        count=row["count"],
        actor=row["actor"],
    )
    return Job(
        id=UUID(bytes=row["id"].bytes),
        order=order,
        made=row["made"],
        state=State(row["state"]),
        problem=row["problem"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


async def _known(postgres: Pool, job_id: UUID, order: GenerationRequest) -> Job | None:
    try:
        job = await find_job(postgres, job_id)
    except JobNotFoundError:
        return None
    same = (job.order.batch_id, job.order.client_id, job.order.code_format, job.order.count)
    if same != (order.batch_id, order.client_id, order.code_format, order.count):
        raise JobIdReusedError("the job of this id is another one")
    return job


async def _insert(connection: AnyConnection, job_id: UUID, order: GenerationRequest, *, bounded: bool) -> Job:
    if bounded:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", JOB_OPENING_LOCK)
        row = await connection.fetchrow(_OPEN, order.client_id)
        assert row is not None
        if row["all_of_them"] >= MAX_OPEN_JOBS or row["of_client"] >= MAX_OPEN_JOBS_OF_CLIENT:
            raise TooManyJobsError("too many jobs are waiting; when one is finished there is room for another")
    values = job_id, order.batch_id, order.client_id, format_text(order.code_format), order.count, order.actor, bounded
    row = await connection.fetchrow(_INSERT, *values)
    assert row is not None
    # So that the client's keys see the batch, and the next command knows the client.
    await connection.execute(
        "INSERT INTO pools (batch_id, client_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        order.batch_id,
        order.client_id,
    )
    detail = {"job": job_id, "client": order.client_id, "count": order.count, "format": order.code_format.to_json()}
    await audit.record(
        connection, actor=order.actor, action="codes.generate", subject=f"batch:{order.batch_id}", detail=detail
    )
    return job_from_row(row)


async def _changed(connection: AnyConnection, assignments: str, job_id: UUID, *values: object) -> Job:
    row = await connection.fetchrow(
        f"UPDATE generation_jobs SET {assignments} WHERE id = $1 RETURNING {_COLUMNS}", job_id, *values
    )
    assert row is not None, "jobs are never deleted"
    return job_from_row(row)


_COLUMNS: Final = (
    "id, batch_id, client_id, format::text, count, made, state, problem, actor, created_at, touched_at, finished_at"
)
JOB_SELECT: Final = f"SELECT {_COLUMNS} FROM generation_jobs"
_INSERT: Final = f"""
INSERT INTO generation_jobs (id, batch_id, client_id, format, count, actor, announced_at)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, CASE WHEN $7 THEN now() END) RETURNING {_COLUMNS}
"""
_BEFORE: Final = """
SELECT (SELECT coalesce(sum(CASE WHEN finished_at IS NULL THEN count ELSE made END), 0) FROM generation_jobs
        WHERE batch_id = $1 AND format = $2::text::jsonb) AS of_this_form,
       coalesce((SELECT total FROM pools WHERE batch_id = $1 AND client_id = $3), 0) AS total
"""
_OPEN: Final = """
SELECT count(*) AS all_of_them, count(*) FILTER (WHERE client_id = $1) AS of_client
FROM generation_jobs WHERE finished_at IS NULL
"""
_OLDEST_OPEN: Final = f"{JOB_SELECT} WHERE finished_at IS NULL ORDER BY touched_at LIMIT 5"
