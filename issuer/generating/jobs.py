"""Generation jobs: accepted requests and their progress. A job outlives the process that runs it."""

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
from issuer.clients.quotas import check_quotas
from issuer.generating.code_format import format_text, parse_code_format
from issuer.generating.request import GenerationRequest, check_request
from issuer.instants import show_instant
from issuer.storage.acts import UNKEPT, Act
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
"""Unfinished jobs that requests over HTTP may add to."""


class JobLock(IntEnum):
    """The exclusive locks of a job, by the number of their advisory lock: of its runner, of the waiting command."""

    WORK = JOB_WORK_LOCK
    WAIT = JOB_WAIT_LOCK


class JobNotFoundError(Exception):
    """The job does not exist, or the caller may not see it."""


class JobIdReusedError(Exception):
    """The job with this id has another request."""


class TooManyJobsError(Exception):
    """The limit of unfinished jobs is reached. Nothing was changed; a later attempt can succeed."""


class JobState(StrEnum):
    """State of a job. DONE and FAILED are final."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """A request and its progress. `made` codes are in the batch and stay there, also if the job fails later."""

    id: UUID
    request: GenerationRequest
    made: int
    state: JobState
    problem: str | None
    created_at: datetime
    finished_at: datetime | None
    batch_name: str
    client_name: str | None

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    def to_json(self) -> dict[str, Any]:
        """Return the job as the API and the command line show it."""
        return {
            "id": str(self.id),
            "batch_id": str(self.request.batch_id),
            "batch_name": self.batch_name,
            "client_id": str(self.request.client_id),
            "client_name": self.client_name,
            "state": self.state.value,
            "count": self.request.count,
            "made": self.made,
            "format": self.request.code_format.to_json(),
            "problem": self.problem,
            "created_at": show_instant(self.created_at),
            "finished_at": None if self.finished_at is None else show_instant(self.finished_at),
        }


async def request_codes(
    stores: Stores,
    request: GenerationRequest,
    *,
    job_id: UUID | None = None,
    bounded: bool = False,
    act: Act[Job] = UNKEPT,
) -> Job:
    """Accept a request as a job: a process or the worker will finish it, unless its batch ends.

    With a `job_id` chosen by the caller, a repeated request returns the same job. `bounded` limits the number of
    unfinished jobs. Raises what `check_request` raises, JobIdReusedError, TooManyJobsError and QuotaExceededError;
    nothing is changed then.
    """
    if job_id is not None and (job := await _find_same(stores.postgres, job_id, request)) is not None:
        return await _keep_same(stores, job, act)
    await check_request(stores, request)
    job_id = job_id or uuid4()
    try:
        async with act.transaction(stores.postgres) as connection:
            job = await _insert(connection, job_id, request, bounded=bounded)
            await act.keep(connection, job)
            return job
    except asyncpg.UniqueViolationError:
        pass
    # A concurrent call with this id has inserted the job first.
    job = await _find_same(stores.postgres, job_id, request)
    assert job is not None, "jobs are never deleted"
    return await _keep_same(stores, job, act)


async def _keep_same(stores: Stores, job: Job, act: Act[Job]) -> Job:
    async with act.transaction(stores.postgres) as connection:
        await act.keep(connection, job)
    return job


async def find_job(
    postgres: Pool | AnyConnection, job_id: UUID, *, batch_id: UUID | None = None, client_id: UUID | None = None
) -> Job:
    """Return a job. Raises JobNotFoundError, also for another batch or client; PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(
            f"{JOB_SELECT} WHERE id = $1 AND coalesce(batch_id = $2, true) AND coalesce(client_id = $3, true)",
            job_id, batch_id, client_id,
        )  # fmt: skip
    if row is None:
        raise JobNotFoundError(f"no job has the id {job_id}")
    return job_from_row(row)


async def list_jobs(postgres: Pool, batch_id: UUID, *, client_id: UUID | None = None, limit: int = 5) -> list[Job]:
    """Return the latest jobs of a batch, or of one client in it, newest first. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        rows = await postgres.fetch(
            f"{JOB_SELECT} WHERE batch_id = $1 AND coalesce(client_id = $2, true) ORDER BY created_at DESC LIMIT $3",
            batch_id, client_id, limit,
        )  # fmt: skip
    return [job_from_row(row) for row in rows]


async def find_open_ids(postgres: Pool) -> list[UUID]:
    """Return the unfinished jobs in the order in which they are due: first the client that was served longest ago.

    However many jobs a client has, it gets as many chunks as any other.
    """
    return [UUID(bytes=row["id"].bytes) for row in await postgres.fetch(_OPEN_IDS)]


async def touch(connection: AnyConnection, job_id: UUID) -> Job:
    """Move a job to the end of the queue."""
    return await _update(connection, "touched_at = clock_timestamp()", job_id)


async def count_generated(connection: AnyConnection, job_id: UUID, added: int) -> Job:
    """Count codes in the transaction that inserts them. The session must hold JobLock.WORK of the job."""
    return await _update(
        connection, "made = made + $2, state = 'running', touched_at = clock_timestamp()", job_id, added
    )


async def end_job(connection: AnyConnection, job_id: UUID, state: JobState, problem: str | None = None) -> Job:
    """End a job as done or failed; the first end stays."""
    return await _update(connection, _END, job_id, state.value, problem)


async def lock_job(connection: AnyConnection, job_id: UUID) -> Job:
    """Return a job, which no other transaction changes until this one ends. Raises JobNotFoundError."""
    row = await connection.fetchrow(f"{JOB_SELECT} WHERE id = $1 FOR UPDATE", job_id)
    if row is None:
        raise JobNotFoundError(f"no job has the id {job_id}")
    return job_from_row(row)


async def mark_announced(postgres: Pool, job_id: UUID) -> None:
    """Record that the command has shown the end of its job: the same command again is a new request."""
    async with unavailable_translated():
        await postgres.execute(
            "UPDATE generation_jobs SET announced_at = now() WHERE id = $1 AND announced_at IS NULL", job_id
        )


@asynccontextmanager
async def try_job_lock(connection: AnyConnection, job_id: UUID, lock: JobLock = JobLock.WORK) -> AsyncIterator[bool]:
    """Try to take a lock of a job for the block; yield whether this session has it.

    The lock ends with the session. Its holder inserts codes over the same session, so it cannot insert any more after
    another session has taken the lock.
    """
    key = lock_of(lock.value, job_id)
    acquired = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *key)
    try:
        yield bool(acquired)
    finally:
        if acquired and not connection.is_closed():
            with suppress(*UNAVAILABLE):  # the lock has ended with the session
                await connection.execute("SELECT pg_advisory_unlock($1, $2)", *key)


def job_from_row(row: asyncpg.Record) -> Job:
    """Return the job of a row of JOB_SELECT."""
    request = GenerationRequest(
        batch_id=UUID(bytes=row["batch_id"].bytes),
        client_id=UUID(bytes=row["client_id"].bytes),
        code_format=parse_code_format(orjson.loads(row["format"])),
        count=row["count"],
        actor=row["actor"],
    )
    return Job(
        id=UUID(bytes=row["id"].bytes),
        request=request,
        made=row["made"],
        state=JobState(row["state"]),
        problem=row["problem"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        batch_name=row["batch_name"],
        client_name=row["client_name"],
    )


async def _find_same(postgres: Pool, job_id: UUID, request: GenerationRequest) -> Job | None:
    try:
        job = await find_job(postgres, job_id)
    except JobNotFoundError:
        return None
    known = (job.request.batch_id, job.request.client_id, job.request.code_format, job.request.count)
    if known != (request.batch_id, request.client_id, request.code_format, request.count):
        raise JobIdReusedError("the job of this id is another one")
    return job


async def _insert(connection: AnyConnection, job_id: UUID, request: GenerationRequest, *, bounded: bool) -> Job:
    if bounded:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", JOB_OPENING_LOCK)
        row = await connection.fetchrow(_OPEN, request.client_id)
        assert row is not None
        if row["all_of_them"] >= MAX_OPEN_JOBS or row["of_client"] >= MAX_OPEN_JOBS_OF_CLIENT:
            raise TooManyJobsError("too many jobs are waiting; when one is finished there is room for another")
    values = (
        job_id,
        request.batch_id,
        request.client_id,
        format_text(request.code_format),
        request.code_format.spelling,
        request.count,
        request.actor,
        bounded,
    )
    row = await connection.fetchrow(_INSERT, *values)
    assert row is not None
    # The pool makes the batch visible to the client's keys, and the client known to the next command.
    await connection.execute(
        "INSERT INTO pools (batch_id, client_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        request.batch_id,
        request.client_id,
    )
    await check_quotas(connection, [request.client_id])
    detail = {
        "job": job_id,
        "client": request.client_id,
        "count": request.count,
        "format": request.code_format.to_json(),
    }
    await audit.record(
        connection, actor=request.actor, action="codes.generate", subject=f"batch:{request.batch_id}", detail=detail
    )
    return job_from_row(row)


async def _update(connection: AnyConnection, assignments: str, job_id: UUID, *values: object) -> Job:
    row = await connection.fetchrow(
        f"UPDATE generation_jobs SET {assignments} WHERE id = $1 RETURNING {_COLUMNS}", job_id, *values
    )
    assert row is not None, "jobs are never deleted"
    return job_from_row(row)


_COLUMNS: Final = (
    "id, batch_id, client_id, format::text, count, made, state, problem, actor, created_at, touched_at, finished_at,"
    " (SELECT name FROM batches WHERE batches.id = generation_jobs.batch_id) AS batch_name,"
    " (SELECT name FROM clients WHERE clients.id = generation_jobs.client_id) AS client_name"
)
_END: Final = """
state = CASE WHEN finished_at IS NULL THEN $2 ELSE state END,
problem = CASE WHEN finished_at IS NULL THEN $3 ELSE problem END, finished_at = coalesce(finished_at, now())"""
JOB_SELECT: Final = f"SELECT {_COLUMNS} FROM generation_jobs"
_INSERT: Final = f"""
INSERT INTO generation_jobs (id, batch_id, client_id, format, spelling, count, actor, announced_at)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, $7, CASE WHEN $8 THEN now() END) RETURNING {_COLUMNS}
"""
_OPEN: Final = """
SELECT count(*) AS all_of_them, count(*) FILTER (WHERE client_id = $1) AS of_client
FROM generation_jobs WHERE finished_at IS NULL
"""
# A job was served if it was touched after its creation. Finished ones count: otherwise a client that keeps creating
# small jobs would always be one that was not served yet.
_OPEN_IDS: Final = """
SELECT id FROM generation_jobs JOIN LATERAL (
    SELECT max(served.touched_at) AS served_at FROM generation_jobs served
    WHERE served.client_id = generation_jobs.client_id AND served.touched_at > served.created_at) client ON true
WHERE finished_at IS NULL ORDER BY served_at NULLS FIRST, touched_at
"""
