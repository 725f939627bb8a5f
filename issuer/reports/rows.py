"""Read the rows of a report through a cursor: one snapshot, a few hundred rows in memory at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from issuer.reports.report import Report, Selection
from issuer.storage.postgres import Connection, PoolConnection, unavailable_translated

Row = tuple[Any, ...]
Rows = AsyncGenerator[list[Row], None]
"""Chunks of rows. The consumer closes the generator."""

BATCH_SIZE: Final = 200
"""Rows of a chunk: encoding them blocks the event loop for about 2 ms."""


async def read_rows(
    connect: AbstractAsyncContextManager[Connection | PoolConnection],
    report: Report,
    selection: Selection,
    *,
    timeout_s: float,
) -> Rows:
    """Yield chunks of rows, over a connection of their own from `connect`.

    No statement takes longer than `timeout_s`, and Postgres ends the transaction if it is idle for that long: a frozen
    process must not block the vacuum of the tables. Close the generator when stopping early. Raises
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
