"""The sweep: what is due happens on accounts that are not touched: holds and points expire, points become available."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.operations import Sweep
from issuer.loyalty.waiting import PointsBusyError
from issuer.storage.postgres import Pool, PostgresUnavailableError, unavailable_translated
from issuer.storage.task_rows import TaskRows

TASK: Final = "points-due"
BATCH_SIZE: Final = 500
"""Accounts of one round: a few transactions of the executor, between which requests have their turn."""

# Accounts that could not be swept wait for their next attempt and leave the place to others.
_DUE: Final = """
SELECT a.id, a.seq, t.row_id IS NOT NULL AS has_failed
FROM accounts a LEFT JOIN task_rows t ON t.task = $1 AND t.row_id = a.id::text
WHERE a.due_at <= clock_timestamp() AND a.due_at < '9999-12-30T00:00:00Z'
  AND (t.retry_at IS NULL OR t.retry_at <= now() OR t.version <> a.seq)
ORDER BY a.due_at LIMIT $2"""


async def sweep_due(postgres: Pool, executor: LoyaltyExecutor, rows: TaskRows) -> int:
    """Do what is due, until nothing is; return the number of accounts that were swept.

    The executor gathers the accounts of a round, and the error of one account is no error of the others: so no account
    is marked by itself, only recorded when it fails. Several workers may do the same: what is done is due no more.
    Raises PostgresUnavailableError.
    """
    swept = 0
    while True:
        async with unavailable_translated():
            due = await postgres.fetch(_DUE, TASK, BATCH_SIZE)
        swept += await _sweep(executor, rows, due)
        if len(due) < BATCH_SIZE:
            return swept


async def _sweep(executor: LoyaltyExecutor, rows: TaskRows, due: Sequence[asyncpg.Record]) -> int:
    outcomes = await asyncio.gather(*(executor.execute(row["id"], Sweep()) for row in due), return_exceptions=True)
    swept = 0
    for row, outcome in zip(due, outcomes, strict=True):
        if isinstance(outcome, PostgresUnavailableError | PointsBusyError):
            raise PostgresUnavailableError(str(outcome)) from outcome
        if isinstance(outcome, Exception):
            await rows.fail(TASK, str(row["id"]), outcome, version=row["seq"])
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        swept += 1
        if row["has_failed"]:
            await rows.forget(TASK, str(row["id"]))
    return swept
