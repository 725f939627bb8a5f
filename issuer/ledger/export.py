"""Export of the ledger as CSV, streamed: memory does not grow with the number of redemptions."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.instants import show_instant
from issuer.postgres import Pool, unavailable_translated

COLUMNS: Final = ("batch_id", "client_id", "code", "customer_id", "redeemed_at", "seq")

_CHUNK: Final = 2_000
_TIMEOUT_S: Final = 900.0

# What a spreadsheet takes for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which redemptions; None: all. `since` is included, `until` is not."""

    batch_id: UUID | None = None
    client_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


def guarded(text: str) -> str:
    """Text that no spreadsheet takes for a formula: with an apostrophe in front where one would."""
    return "'" + text if text.startswith(_FORMULA) else text


async def export_csv(
    postgres: Pool, selection: Selection, write: Callable[[str], object], *, guard: bool = True
) -> int:
    """Writes a header and one line a redemption, in order of pool and seq; returns their number.

    With `guard` codes that a spreadsheet would take for a formula get an apostrophe in front. Raises
    PostgresUnavailableError, and whatever `write` raises.
    """
    written = 0
    async with aclosing(_chunks(postgres, selection, guard)) as chunks:
        # Outside of the generator: what fails here is not Postgres.
        async for count, text in chunks:
            write(text)
            written += count
    return written


async def _chunks(postgres: Pool, selection: Selection, guard: bool) -> AsyncGenerator[tuple[int, str], None]:
    """Pieces of the file, each with the number of redemptions in it."""
    yield 0, _lines([COLUMNS])
    query, arguments = _query(selection)
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction(readonly=True):
        cursor = await connection.cursor(query, *arguments, timeout=_TIMEOUT_S)
        while rows := await cursor.fetch(_CHUNK, timeout=_TIMEOUT_S):
            yield len(rows), _lines(_cells(row, guard) for row in rows)


def _cells(row: asyncpg.Record, guard: bool) -> tuple[object, ...]:
    code = guarded(row["code"]) if guard else row["code"]
    return row["batch_id"], row["client_id"], code, row["customer_id"], show_instant(row["redeemed_at"]), row["seq"]


def _lines(rows: Iterable[Iterable[object]]) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()


def _query(selection: Selection) -> tuple[str, list[Any]]:
    arguments: list[Any] = []
    conditions = ["true"]

    def add(condition: str, value: object) -> None:
        if value is not None:
            arguments.append(value)
            conditions.append(condition.format(f"${len(arguments)}"))

    add("r.pool_id = ANY(SELECT id FROM pools WHERE batch_id = {})", selection.batch_id)
    add("r.pool_id = ANY(SELECT id FROM pools WHERE client_id = {})", selection.client_id)
    add("r.redeemed_at >= {}", selection.since)
    add("r.redeemed_at < {}", selection.until)
    query = (
        "SELECT r.batch_id, p.client_id, r.code, r.customer_id, r.redeemed_at, r.seq"
        " FROM redemptions r JOIN pools p ON p.id = r.pool_id"
        f" WHERE {' AND '.join(conditions)} ORDER BY r.pool_id, r.seq"
    )
    return query, arguments
