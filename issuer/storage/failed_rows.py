"""Failed rows: what the maintenance tasks could not process, for the operator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from issuer.storage.postgres import Pool, count_of, unavailable_translated


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that a task skips until `retry_at`. `row` is its id; empty: the error was outside any row."""

    task: str
    row: str
    failures: int
    error: str
    first_at: datetime
    last_at: datetime
    retry_at: datetime


_LIST: Final = """
SELECT task, row_id, failures, error, first_at, last_at, retry_at FROM task_rows WHERE failures > 0
ORDER BY first_at, task, row_id LIMIT $1"""

_RETRY: Final = """
UPDATE task_rows SET retry_at = now()
WHERE failures > 0 AND ($1::text IS NULL OR task = $1) AND ($2::text IS NULL OR row_id = $2)"""


async def list_failed_rows(postgres: Pool, *, limit: int = 100) -> list[FailedRow]:
    """Return the failed rows, those that failed first at the top."""
    async with unavailable_translated():
        return [FailedRow(*row) for row in await postgres.fetch(_LIST, limit)]


async def count_failed_rows(postgres: Pool) -> int:
    async with unavailable_translated():
        return int(await postgres.fetchval("SELECT count(*) FROM task_rows WHERE failures > 0"))


async def retry_failed_rows(postgres: Pool, *, task: str | None = None, row: str | None = None) -> int:
    """Have failed rows (of all tasks, or as chosen) tried again at once; return how many."""
    async with unavailable_translated():
        status = await postgres.execute(_RETRY, task, row)
    return count_of(status)
