"""List and cancel generation jobs, for operators."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from issuer.access import audit
from issuer.generating.jobs import JOB_SELECT, Job, JobState, end_job, job_from_row, lock_job
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.postgres import Pool, unavailable_translated

_LIST: Final = f"""
{JOB_SELECT} WHERE ($1 OR finished_at IS NULL)
  AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid)) ORDER BY created_at DESC, id DESC LIMIT $4"""


class JobFinishedError(Exception):
    """The job is finished: its codes exist, or it has failed."""


async def list_jobs(postgres: Pool, *, finished: bool, limit: int = 100, cursor: str | None = None) -> Page[Job]:
    """Return one page of the jobs, newest first; with `finished` also those. Raises InvalidCursorError."""
    created_at, last_id = decode_cursor("jobs", cursor, (datetime, UUID)) if cursor else (None, None)
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, finished, created_at, last_id, limit + 1)
    jobs = [job_from_row(row) for row in rows]
    return Page.of(jobs, limit, lambda last: encode_cursor("jobs", (last.created_at, last.id)))


async def cancel_job(postgres: Pool, job_id: UUID, *, actor: str) -> Job:
    """End a job as failed. The codes that it made stay in the batch; a chunk that is being inserted is completed first.

    Raises JobNotFoundError, JobFinishedError and PostgresUnavailableError.
    """
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        job = await lock_job(connection, job_id)
        if job.finished:
            raise JobFinishedError(f"the job is {job.state} already, with {job.made:,} codes")
        job = await end_job(connection, job_id, JobState.FAILED, "it was cancelled")
        detail = {"job": job.id, "count": job.request.count, "made": job.made}
        subject = f"batch:{job.request.batch_id}"
        await audit.record(connection, actor=actor, action="codes.generate.cancel", subject=subject, detail=detail)
        return job
