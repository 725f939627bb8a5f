"""Works at jobs: draws codes, puts them into the batch a chunk at a time, brings them to Redis.

Each chunk is one transaction that inserts codes and counts them in the job. Whoever dies takes at most the chunk in
hand with it, and whoever goes on, the same command or the worker, makes exactly what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import structlog

from issuer.generating.drawing import CodeSource, FewCodesError
from issuer.generating.jobs import (
    GenerationRequest,
    Job,
    State,
    add_made,
    ask_for_codes,
    end_job,
    find_job,
    held,
    oldest_open,
    touch,
)
from issuer.loading.preload import load_pool_of_batch
from issuer.loading.progress import Phase, Progress, ignore_progress
from issuer.loading.staging import copy_rows, insert_codes, number_rows, staging_table
from issuer.pools.pool import PoolClosedError
from issuer.storage.postgres import AnyConnection, own_connection, unavailable_translated
from issuer.storage.stores import Stores

log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 50_000
"""Codes of one transaction: a second or so, in which nobody else adds codes to the batch."""
CANCEL_CHECK_SIZE: Final = 5_000
"""Codes drawn at a time, in a thread: the loop has other things to do."""
_EMPTY_CHUNKS: Final = 100
_LOOK_S: Final = 0.1


async def generate_codes(
    stores: Stores, order: GenerationRequest, *, job_id: UUID | None = None, progress: Progress | None = None
) -> Job:
    """Adds exactly `count` codes to a batch; returns when they are there and Redis has what it should have of them.

    With a `job_id` chosen by the caller the same order again adds nothing and finishes what was left. Raises as
    `ask_for_codes` does, nothing changed; after that as `finish_job` does.
    """
    job = await ask_for_codes(stores, order, job_id=job_id)
    return await finish_job(stores, job.id, progress=progress)


async def finish_job(stores: Stores, job_id: UUID, *, progress: Progress | None = None) -> Job:
    """Works at a job until it is finished, or looks on while another process does, over a connection of its own.

    A job whose batch has ended, or whose codes cannot be found, ends as failed. Raises JobNotFoundError,
    PoolError, RedisMemoryError, RedisUnavailableError, PostgresUnavailableError; the worker goes on with the job then.
    """
    progress = progress or ignore_progress
    async with unavailable_translated(), own_connection(stores.settings) as connection:
        while True:
            async with held(connection, job_id) as is_mine:
                job = await find_job(connection, job_id)
                if is_mine:
                    job = await _make_all(connection, job, progress)
                    return await _bring_to_redis(stores, connection, job, progress)
            progress(Phase.GENERATING, job.made, job.order.count)
            await asyncio.sleep(_LOOK_S)


async def work_on_jobs(stores: Stores) -> bool:
    """One chunk of the job that has waited longest and that nobody is at; False: there is none. For the worker.

    Raises what `finish_job` raises.
    """
    async with unavailable_translated(), stores.postgres.acquire() as connection:
        for job in await oldest_open(connection):
            async with held(connection, job.id) as is_mine:
                if not is_mine:
                    continue
                # First to the end of the queue: a job that cannot go on must not keep the others waiting.
                job = await touch(connection, job.id)
                if job.finished:
                    continue
                if job.made < job.order.count:
                    job = await _make_chunk(connection, job, CodeSource(job.order.code_format))
                if job.made == job.order.count or job.finished:
                    job = await _bring_to_redis(stores, connection, job, ignore_progress)
                    log.info("codes generated", job=str(job.id), state=job.state, made=job.made, problem=job.problem)
                return True
    return False


async def _make_all(connection: AnyConnection, job: Job, progress: Progress) -> Job:
    source = CodeSource(job.order.code_format)
    while not job.finished and job.made < job.order.count:
        progress(Phase.GENERATING, job.made, job.order.count)
        job = await _make_chunk(connection, job, source)
    progress(Phase.GENERATING, job.made, job.order.count)
    return job


async def _make_chunk(connection: AnyConnection, job: Job, source: CodeSource) -> Job:
    """Adds a chunk of what is missing, at least one code. The job's lock must be held."""
    wanted = min(BATCH_SIZE, job.order.count - job.made)
    try:
        for _ in range(_EMPTY_CHUNKS):
            before = job.made
            async with staging_table(connection):
                await copy_rows(connection, _drawn_rows(source, wanted))
                job = await _insert(connection, job)
            if job.finished or job.made > before:
                return job
    except FewCodesError as error:
        return await end_job(connection, job.id, State.FAILED, str(error))
    return await end_job(connection, job.id, State.FAILED, "nearly all codes of this form are in the batch already")


async def _insert(connection: AnyConnection, job: Job) -> Job:
    """What was staged and is new, with seqs, into the batch and into the job's count: both or neither."""
    order = job.order
    async with connection.transaction():
        if await connection.fetchval("SELECT ended_at IS NOT NULL FROM batches WHERE id = $1", order.batch_id):
            return await end_job(connection, job.id, State.FAILED, "the batch has ended")
        clients = [order.client_id]
        numbering = await number_rows(connection, order.batch_id, clients)
        await insert_codes(connection, order.batch_id, clients, numbering)
        added = sum(addition.count for addition in numbering.additions)
        return await add_made(connection, job.id, added)


async def _bring_to_redis(stores: Stores, connection: AnyConnection, job: Job, progress: Progress) -> Job:
    """The job as finished, once its pool is in Redis up to the high-water mark."""
    if job.state is State.FAILED:
        return job
    pool_id = await connection.fetchval(_POOL, job.order.batch_id, job.order.client_id)
    pushed = 0

    def count(codes: int) -> None:
        nonlocal pushed
        pushed += codes
        progress(Phase.LOADING, pushed, max(pushed, job.made))

    try:
        await load_pool_of_batch(stores, job.order.batch_id, pool_id, progress=count)
    except PoolClosedError:
        return job if job.finished else await end_job(connection, job.id, State.FAILED, "the batch has ended")
    return await end_job(connection, job.id, State.DONE)


async def _drawn_rows(source: CodeSource, count: int) -> AsyncIterator[bytes]:
    """Rows for the staging table, as CodeCsv makes them: row, client, number, code."""
    for done in range(0, count, CANCEL_CHECK_SIZE):
        codes = await asyncio.to_thread(source.draw, min(CANCEL_CHECK_SIZE, count - done))
        yield (
            "".join(f"{number}\t0\t{number}\t{code}\n" for number, code in enumerate(codes, done + 1))
            .replace("\\", "\\\\")
            .encode()
        )


_POOL: Final = "SELECT id FROM pools WHERE batch_id = $1 AND client_id = $2"
