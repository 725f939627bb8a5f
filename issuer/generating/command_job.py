"""The job of a command: one that was killed and is given again means the job that it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from uuid import UUID, uuid4

from issuer.generating.code_format import format_text
from issuer.generating.jobs import JOB_SELECT, GenerationRequest, Job, JobLock, ask_for_codes, held, job_from_row
from issuer.storage.postgres import Connection, own_connection, unavailable_translated
from issuer.storage.stores import Stores

REPEATED_WITHIN_H: Final = 24
_DEATH_SHOWS_S: Final = 1.0
"""Postgres notices at once that a process is gone; nearly."""


@asynccontextmanager
async def command_job(
    stores: Stores, order: GenerationRequest, *, job_id: UUID | None = None
) -> AsyncIterator[tuple[Job, bool]]:
    """The job of an order, for a command that waits for its end within the block; and whether it was left behind.

    Left behind is a job of the very same order of the last 24 hours, the end of which nobody was told and for which no
    process waits any more: the command means this one, not as many codes once more. Otherwise, and with a `job_id`
    always, as `ask_for_codes` has it; raises the same.
    """
    async with AsyncExitStack() as kept:
        async with unavailable_translated():
            connection = await kept.enter_async_context(own_connection(stores.settings))
            left = await _take_left_behind(kept, connection, order) if job_id is None else None
            if left is None:
                job_id = job_id or uuid4()
                # Held before anybody can see the job: the same command elsewhere must not take it for left behind.
                await kept.enter_async_context(held(connection, job_id, JobLock.WAIT))
        yield left or await ask_for_codes(stores, order, job_id=job_id), left is not None


async def _take_left_behind(kept: AsyncExitStack, connection: Connection, order: GenerationRequest) -> Job | None:
    """A job left behind, held from now on."""
    deadline = asyncio.get_running_loop().time() + _DEATH_SHOWS_S
    while True:
        rows = await connection.fetch(
            _UNTOLD, order.batch_id, order.client_id, format_text(order.code_format), order.count, order.actor
        )
        for job in map(job_from_row, rows):
            if await kept.enter_async_context(held(connection, job.id, JobLock.WAIT)):
                return job
        if not rows or asyncio.get_running_loop().time() > deadline:
            return None
        await asyncio.sleep(0.05)


_UNTOLD: Final = f"""
{JOB_SELECT} WHERE batch_id = $1 AND client_id = $2 AND format = $3::text::jsonb AND count = $4 AND actor = $5
    AND announced_at IS NULL AND created_at > now() - interval '{REPEATED_WITHIN_H} hours'
ORDER BY created_at
"""
