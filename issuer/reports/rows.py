"""The rows of a report, read through a cursor: one snapshot of the data, a few hundred rows in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from issuer.reports.report import Report, Selection
from issuer.storage.postgres import Connection, PoolConnection, unavailable_translated

Row = tuple[Any, ...]
Rows = AsyncGenerator[list[Row], None]
"""Chunks of rows; whoever holds them closes them."""

BATCH_SIZE: Final = 200
"""Rows at a time: some 2 ms to make text of, for which everybody else in the process waits."""


async def read_rows(
    connect: AbstractAsyncContextManager[Connection | PoolConnection],
    report: Report,
    selection: Selection,
    *,
    timeout_s: float,
) -> Rows:
    """Chunks of rows, on a connection of its own from `connect`.

    No statement takes longer than `timeout_s`, and Postgres itself ends the transaction when nothing is asked for so
    long: a process that is frozen must not hold back the clean-up of the tables. Close it when you stop early. Raises
    PostgresUnavailableError.
    """
    arguments = report.arguments(selection)
    async with unavailable_translated(), connect as connection, connection.transaction(readonly=True):
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(
                "SELECT set_config($1, $2, true)", setting, str(int(timeout_s * 1000)), timeout=timeout_s
            )
        cursor = await connection.cursor(report.query, *arguments, timeout=timeout_s)
        while rows := await cursor.fetch(BATCH_SIZE, timeout=timeout_s):
            yield [tuple(row) for row in rows]
