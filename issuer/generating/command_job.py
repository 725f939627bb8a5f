"""The job of a command. A command that is repeated after a kill continues the job that the first run left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from uuid import UUID, uuid4

from issuer.generating.code_format import format_text
from issuer.generating.jobs import (
    JOB_SELECT,
    Job,
    JobLock,
    job_from_row,
    request_codes,
    try_job_lock,
)
from issuer.generating.request import GenerationRequest
from issuer.storage.postgres import Connection, own_connection, unavailable_translated
from issuer.storage.stores import Stores

REPEATED_WITHIN_H: Final = 24
_LOCK_RELEASE_S: Final = 1.0
"""Time that Postgres may take to release the lock of a process that was killed."""


@asynccontextmanager
async def command_job(
    stores: Stores, request: GenerationRequest, *, job_id: UUID | None = None
) -> AsyncIterator[tuple[Job, bool]]:
    """Yield the job of a request, for a command that waits for its end in the block, and whether it was abandoned.

    An abandoned job has the same request, is at most 24 hours old, its end was not announced, and no process waits for
    it: the command continues it instead of generating as many codes again. Without one, and always with a `job_id`, the
    job is that of `request_codes`. Raises what that raises.
    """
    async with AsyncExitStack() as locks:
        async with unavailable_translated():
            connection = await locks.enter_async_context(own_connection(stores.settings))
            abandoned = await _adopt_abandoned(locks, connection, request) if job_id is None else None
            if abandoned is None:
                job_id = job_id or uuid4()
                # Lock the job before it is visible: the same command elsewhere must not take it for abandoned.
                await locks.enter_async_context(try_job_lock(connection, job_id, JobLock.WAIT))
        yield abandoned or await request_codes(stores, request, job_id=job_id), abandoned is not None


async def _adopt_abandoned(locks: AsyncExitStack, connection: Connection, request: GenerationRequest) -> Job | None:
    """Return an abandoned job, locked from now on; None if there is none."""
    deadline = asyncio.get_running_loop().time() + _LOCK_RELEASE_S
    values = request.batch_id, request.client_id, format_text(request.code_format), request.count, request.actor
    while True:
        rows = await connection.fetch(_UNANNOUNCED, *values)
        for job in map(job_from_row, rows):
            if await locks.enter_async_context(try_job_lock(connection, job.id, JobLock.WAIT)):
                return job
        if not rows or asyncio.get_running_loop().time() > deadline:
            return None
        await asyncio.sleep(0.05)


_UNANNOUNCED: Final = f"""
{JOB_SELECT} WHERE batch_id = $1 AND client_id = $2 AND format = $3::text::jsonb AND count = $4 AND actor = $5
    AND announced_at IS NULL AND created_at > now() - interval '{REPEATED_WITHIN_H} hours'
ORDER BY created_at
"""
