"""A database of Ango for an import to read, with as many codes as a test needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg

TABLES: Final = """
CREATE TABLE batches (id uuid PRIMARY KEY, name text, rules jsonb NOT NULL, expired boolean NOT NULL DEFAULT false);
CREATE TABLE codes (
    id serial PRIMARY KEY, code text UNIQUE NOT NULL, batch_id uuid NOT NULL, client_id varchar NOT NULL,
    customer_id uuid
);
CREATE TABLE code_usage (
    id serial PRIMARY KEY, code text NOT NULL, batch_id uuid NOT NULL, client_id uuid NOT NULL,
    customer_id uuid NOT NULL, used_at timestamp NOT NULL
);"""
"""As its migrations create them."""

LOOSE_TABLES: Final = """
CREATE TABLE batches (id text, name text, rules text, expired text);
CREATE TABLE codes (code text, batch_id text, client_id text, customer_id text);
CREATE TABLE code_usage (code text, batch_id text, client_id text, customer_id text, used_at timestamptz);"""
"""With nothing that keeps a mistake out."""

_FILL: Final = """
INSERT INTO codes (code, batch_id, client_id, customer_id)
SELECT 'ANGO' || lpad(n::text, 8, '0'), $1, $2, CASE WHEN n % $4::int = 0 THEN md5((n / 3)::text)::uuid END
FROM generate_series(1, $3::int) n ORDER BY hashint4(n)"""
_USE: Final = """
INSERT INTO code_usage (code, batch_id, client_id, customer_id, used_at)
SELECT code, batch_id, client_id::uuid, customer_id, now()::timestamp - (id % 100000) * interval '1 second'
FROM codes WHERE customer_id IS NOT NULL"""


class Ango:
    """The database, changed as Ango would change it."""

    def __init__(self, connection: Any, dsn: str) -> None:
        self.connection = connection
        self.dsn = dsn

    @classmethod
    async def create(cls, dsn: str, tables: str = TABLES) -> Ango:
        connection = await asyncpg.connect(dsn)
        await connection.execute(tables)
        return cls(connection, dsn)

    async def batch(self, batch_id: UUID | str, rules: object, *, name: str = "Summer", expired: bool = False) -> None:
        await self.connection.execute(
            f"INSERT INTO batches (id, name, rules, expired) VALUES ('{batch_id}', $1, $2, '{expired}')",
            name, json.dumps(rules),
        )  # fmt: skip

    async def add(self, table: str, columns: str, rows: Sequence[Sequence[object]]) -> None:
        await self.connection.copy_records_to_table(table, records=rows, columns=columns.split())

    async def fill(self, batch_id: UUID, client_id: UUID, count: int, *, used_every: int = 2) -> None:
        """Add codes in no order, of which one in `used_every` is used; two or so by each customer."""
        await self.connection.execute(_FILL, batch_id, str(client_id), count, used_every)
        await self.connection.execute(_USE)

    async def use(self, code: str, customer: UUID) -> None:
        """Issue a code, in the statements that Ango uses."""
        await self.connection.execute("UPDATE codes SET customer_id = $2 WHERE code = $1", code, customer)
        await self.connection.execute(
            "INSERT INTO code_usage (code, batch_id, client_id, customer_id, used_at)"
            " SELECT code, batch_id, client_id::uuid, customer_id, now() FROM codes WHERE code = $1",
            code,
        )
