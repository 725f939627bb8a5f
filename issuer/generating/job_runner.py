"""Run generation jobs: draw codes, add them to the batch in chunks, load them into Redis.

Each chunk is one transaction that inserts codes and counts them in the job. A process that is killed loses at most its
current chunk, and the next one, the same command or the worker, generates exactly the missing codes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from issuer.batches.batch import BatchEndedError
from issuer.generating.code_source import CodeSource, FewCodesError
from issuer.generating.jobs import (
    Job,
    JobState,
    count_generated,
    end_job,
    find_job,
    find_open_ids,
    lock_job,
    request_codes,
    touch,
    try_job_lock,
)
from issuer.generating.request import GenerationRequest
from issuer.loading.preload import load_pool_of_batch
from issuer.loading.progress import Phase, Progress, ignore_progress
from issuer.loading.staging import copy_rows, insert_codes, number_rows, staging_table
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import PoolClosedError
from issuer.storage.postgres import AnyConnection, own_connection, unavailable_translated
from issuer.storage.stores import Stores
from issuer.storage.task_rows import UNGUARDED, RowWork

log = structlog.get_logger(__name__)

TASK: Final = "generate"
BATCH_SIZE: Final = 50_000
"""Codes of one transaction: about a second, during which no other session can add codes to the batch."""
CANCEL_CHECK_SIZE: Final = 5_000
"""Codes drawn at a time, in a thread, so that the event loop runs other tasks."""
_MAX_EMPTY_CHUNKS: Final = 100
_POLL_S: Final = 0.1


async def generate_codes(
    stores: Stores, request: GenerationRequest, *, job_id: UUID | None = None, progress: Progress | None = None
) -> Job:
    """Add exactly `count` codes to a batch. Return when they are stored and Redis is filled to the high-water mark.

    With a `job_id` chosen by the caller, a repeated request adds nothing and finishes the same job. Raises what
    `request_codes` raises, nothing changed; after that what `finish_job` raises.
    """
    job = await request_codes(stores, request, job_id=job_id)
    return await finish_job(stores, job.id, progress=progress)


async def finish_job(stores: Stores, job_id: UUID, *, progress: Progress | None = None) -> Job:
    """Run a job until it is finished, or wait while another process runs it, over a connection of its own.

    A job whose batch has ended, or whose format has too few codes left, ends as failed. Raises JobNotFoundError,
    PoolError, RedisMemoryError, RedisUnavailableError, PostgresUnavailableError; the worker then continues the job.
    """
    progress = progress or ignore_progress
    async with unavailable_translated(), own_connection(stores.settings) as connection:
        while True:
            async with try_job_lock(connection, job_id) as acquired:
                job = await find_job(connection, job_id)
                if acquired:
                    job = await _generate_all(connection, job, progress)
                    return await _load_pool(stores, connection, job, progress)
            progress(Phase.GENERATING, job.made, job.request.count)
            await asyncio.sleep(_POLL_S)


async def work_on_jobs(stores: Stores, rows: RowWork = UNGUARDED) -> bool:
    """Run one chunk of the job that is due and that no process runs. For the worker.

    Returns False if there is no such job. `rows`: what becomes of a job that fails with an error. Raises what
    `finish_job` raises.
    """
    async with unavailable_translated():
        waiting = await find_open_ids(stores.postgres)
    for row in await rows.due(TASK, dict.fromkeys(map(str, waiting), 0)):
        if await rows.work(TASK, row, partial(_work_on_job, stores, UUID(row)), raises=(RedisMemoryError,)):
            return True
    return False


async def _work_on_job(stores: Stores, job_id: UUID) -> bool:
    """Run one chunk of a job. False: another process runs it, or it is finished."""
    async with (
        unavailable_translated(),
        stores.postgres.acquire() as connection,
        try_job_lock(connection, job_id) as acquired,
    ):
        if not acquired:
            return False
        # Move it to the end of the queue first: a job that raises must not block the others.
        job = await touch(connection, job_id)
        if job.finished:
            return False
        if job.made < job.request.count:
            job = await _generate_chunk(connection, job, await _source_of(job))
        if job.made == job.request.count or job.finished:
            job = await _load_pool(stores, connection, job, ignore_progress)
            log.info("generation job ended", job=str(job.id), state=job.state, made=job.made, problem=job.problem)
        return True


async def _generate_all(connection: AnyConnection, job: Job, progress: Progress) -> Job:
    source = await _source_of(job)
    while not job.finished and job.made < job.request.count:
        progress(Phase.GENERATING, job.made, job.request.count)
        job = await _generate_chunk(connection, job, source)
    progress(Phase.GENERATING, job.made, job.request.count)
    return job


async def _source_of(job: Job) -> CodeSource:
    # In a thread: an alphabet of 16,384 characters and a thousand words take some ms.
    return await asyncio.to_thread(CodeSource, job.request.code_format)


async def _generate_chunk(connection: AnyConnection, job: Job, source: CodeSource) -> Job:
    """Add up to BATCH_SIZE missing codes, at least one, or end the job as failed. The session must hold the job."""
    size = min(BATCH_SIZE, job.request.count - job.made)
    try:
        for _ in range(_MAX_EMPTY_CHUNKS):
            before = job.made
            async with staging_table(connection):
                await copy_rows(connection, _draw_rows(source, size))
                job = await _insert(connection, job)
            if job.finished or job.made > before:
                return job
    except FewCodesError as error:
        return await end_job(connection, job.id, JobState.FAILED, str(error))
    problem = "nearly all codes of this form exist already"
    return await end_job(connection, job.id, JobState.FAILED, problem)


async def _insert(connection: AnyConnection, job: Job) -> Job:
    """Insert the staged codes that are new, with seqs, and count them in the job, in one transaction."""
    request = job.request
    try:
        async with connection.transaction():
            # An operator may have cancelled it; who cancels it now waits for this chunk.
            job = await lock_job(connection, job.id)
            if job.finished:
                return job
            clients = [request.client_id]
            numbering = await number_rows(connection, request.batch_id, clients)
            await insert_codes(connection, request.batch_id, clients, numbering)
            added = sum(addition.count for addition in numbering.additions)
            return await count_generated(connection, job.id, added)
    except BatchEndedError:
        return await end_job(connection, job.id, JobState.FAILED, "the batch has ended")


async def _load_pool(stores: Stores, connection: AnyConnection, job: Job, progress: Progress) -> Job:
    """Load the job's pool into Redis up to the high-water mark; return the job as finished."""
    if job.state is JobState.FAILED:
        return job
    pool_id = await connection.fetchval(_POOL, job.request.batch_id, job.request.client_id)
    loaded = 0

    def count(codes: int) -> None:
        nonlocal loaded
        loaded += codes
        progress(Phase.LOADING, loaded, max(loaded, job.made))

    try:
        await load_pool_of_batch(stores, job.request.batch_id, pool_id, progress=count)
    except PoolClosedError:
        return job if job.finished else await end_job(connection, job.id, JobState.FAILED, "the batch has ended")
    return await end_job(connection, job.id, JobState.DONE)


async def _draw_rows(source: CodeSource, count: int) -> AsyncIterator[bytes]:
    """Draw codes and yield them as rows for the staging table, in the format of CodeRows: row, client, number, code."""
    for done in range(0, count, CANCEL_CHECK_SIZE):
        codes = await asyncio.to_thread(source.draw, min(CANCEL_CHECK_SIZE, count - done))
        yield (
            "".join(f"{number}\t0\t{number}\t{code}\n" for number, code in enumerate(codes, done + 1))
            .replace("\\", "\\\\")
            .encode()
        )


_POOL: Final = "SELECT id FROM pools WHERE batch_id = $1 AND client_id = $2"
