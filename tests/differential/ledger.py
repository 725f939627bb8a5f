"""The ledgers of two installations, as far as they must be equal."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from issuer.settings import Settings

LEDGER: Final = ("redemptions", "consumptions")
NOT_COMPARED: Final = ("redeemed_at", "consumed_at", "recorded_at", "call_id", "epoch")
"""Instants, and ids that a process draws."""
NO_ROWS: Final = ("dead_letters", "anomalies", "quarantined")
"""Tables that must be empty."""

Ledger = dict[str, list[str]]


def read_ledger(settings: Settings) -> Ledger:
    """Return the rows of the ledger as JSON, by table, and all rows of the tables that must be empty."""
    return asyncio.run(_read_ledger(settings))


async def _read_ledger(settings: Settings) -> Ledger:
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        rows: Ledger = {}
        for table in LEDGER:
            query = f"SELECT (to_jsonb(r) - $1::text[])::text FROM {table} r ORDER BY pool_id, seq"
            rows[table] = [row[0] for row in await connection.fetch(query, list(NOT_COMPARED))]
        for table in NO_ROWS:
            rows[table] = [row[0] for row in await connection.fetch(f"SELECT r::text FROM {table} r")]
        return rows
    finally:
        await connection.close()
