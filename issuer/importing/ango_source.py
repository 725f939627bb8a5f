"""The database of Ango: its tables in one read-only snapshot, streamed.

Types vary between its releases and hand-made schemas, so every column is read as text but the times. A time without a
zone is one of the zone that is given.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from issuer.importing.report import ImportRefusedError
from issuer.storage.postgres import FILE_TIMEOUT_S, UNAVAILABLE, Connection

PREFETCH: Final = 2_000

_REQUIRED: Final = {
    "batches": ("id", "rules"),
    "codes": ("code", "batch_id", "client_id", "customer_id"),
    "code_usage": ("code", "batch_id", "client_id", "customer_id", "used_at"),
}
_COLUMNS: Final = """
SELECT attname::text AS name, format_type(atttypid, NULL) AS type FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"""

_BATCHES: Final = """
SELECT {key} AS key, min(id::text) AS id, min({name}::text) AS name, min(rules::text) AS rules,
  count(DISTINCT rules::text) AS versions, bool_or({expired}) AS expired
FROM batches GROUP BY 1 ORDER BY 1"""

# A UUID in any of its forms is 32 digits; a text is itself.
_TEXT_KEY: Final = (
    r"(CASE WHEN {0}::text ~* '^(urn:uuid:|\{{)?[0-9a-f]{{8}}(-?[0-9a-f]{{4}}){{3}}-?[0-9a-f]{{12}}\}}?$'"
    r" THEN lower(regexp_replace({0}::text, '^urn:uuid:|[{{}}-]', '', 'gi')) ELSE {0}::text END)"
    ' COLLATE "C"'
)
_UUID_KEY: Final = "replace({0}::text, '-', '') COLLATE \"C\""

# A code is one row, however many rows of either table name it: the one that has a customer, its earliest usage. So it
# is used if any row says so. Of each batch the used ones come first, in the order of their use.
_ROWS: Final = """
WITH code AS (
  SELECT DISTINCT ON (code, client_key) *, count(*) OVER (PARTITION BY code, client_key) AS copies FROM (
    SELECT code::text COLLATE "C" AS code, {codes_client} AS client_key, client_id::text AS client,
      {codes_batch} AS batch, nullif(customer_id::text, '') AS customer, {codes_used_at} AS used_at
    FROM codes
  ) AS c ORDER BY code, client_key, (customer IS NULL), used_at, batch
), usage AS (
  SELECT DISTINCT ON (code, client_key) *, count(*) OVER (PARTITION BY code, client_key) AS copies FROM (
    SELECT code::text COLLATE "C" AS code, {usage_client} AS client_key, client_id::text AS client,
      {usage_batch} AS batch, nullif(customer_id::text, '') AS customer, {usage_used_at} AS used_at
    FROM code_usage
  ) AS u ORDER BY code, client_key, used_at, batch
)
SELECT coalesce(c.batch, u.batch) AS batch, coalesce(c.client, u.client) AS client, coalesce(c.code, u.code) AS code,
  u.code IS NOT NULL OR c.customer IS NOT NULL AS used, u.customer AS usage_customer, c.customer AS code_customer,
  coalesce(u.used_at, c.used_at) AS used_at, c.code IS NOT NULL AS in_codes, u.code IS NOT NULL AS in_usage,
  coalesce(c.copies, 1) AS copies, coalesce(u.copies, 1) AS usages
FROM code c FULL JOIN usage u ON u.code = c.code AND u.client_key = c.client_key
ORDER BY 1, 4 DESC, 7, 3"""
# Infinity and times to come count as no time.
_TIME: Final = "(CASE WHEN {0}::timestamptz BETWEEN 'epoch' AND now() THEN {0}::timestamptz END)"


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """A batch of the source. `key` identifies it in the rows of codes; `id` is as written there.

    `versions`: how many different rules the rows have whose ids are this UUID.
    """

    key: str | None
    id: str | None
    name: str | None
    rules: str | None
    versions: int
    expired: bool


class AngoSource:
    """One snapshot of the source."""

    def __init__(self, connection: Connection, columns: dict[str, dict[str, str]]) -> None:
        self._connection = connection
        self._columns = columns

    async def batches(self) -> list[SourceBatch]:
        """Return all batches. Several rows whose ids are one UUID are one batch."""
        columns = self._columns["batches"]
        query = _BATCHES.format(
            key=self._key("batches", "id"),
            name="name" if "name" in columns else "NULL",
            expired="coalesce(expired::text, '') IN ('true', 't', '1')" if "expired" in columns else "false",
        )
        with _source_errors():
            return [SourceBatch(**row) for row in await self._connection.fetch(query)]

    async def count(self) -> int:
        """Return about how many codes there are, for the progress."""
        with _source_errors():
            return int(await self._connection.fetchval("SELECT count(*) FROM codes"))

    async def rows(self) -> AsyncGenerator[asyncpg.Record]:
        """Yield the codes and usages, ordered by batch."""
        query = _ROWS.format(
            codes_client=self._key("codes", "client_id"),
            codes_batch=self._key("codes", "batch_id"),
            codes_used_at=_TIME.format("used_at") if "used_at" in self._columns["codes"] else "NULL::timestamptz",
            usage_client=self._key("code_usage", "client_id"),
            usage_batch=self._key("code_usage", "batch_id"),
            usage_used_at=_TIME.format("used_at"),
        )
        with _source_errors():
            async for row in self._connection.cursor(query, prefetch=PREFETCH):
                yield row

    def _key(self, table: str, column: str) -> str:
        is_uuid = self._columns[table][column] == "uuid"
        return (_UUID_KEY if is_uuid else _TEXT_KEY).format(column)


@asynccontextmanager
async def open_ango(dsn: str, *, time_zone: str = "UTC") -> AsyncIterator[AngoSource]:
    """Open the source for reading, in one snapshot. Raises ImportRefusedError, as every use of it does."""
    with _source_errors():
        connection = await asyncpg.connect(dsn, timeout=10.0, command_timeout=FILE_TIMEOUT_S)
    try:
        with _source_errors():
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute("SELECT set_config('timezone', $1, true)", time_zone)
            source = AngoSource(connection, await _check_schema(connection))
        yield source
    finally:
        connection.terminate()


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except (asyncpg.PostgresError, *UNAVAILABLE, ValueError) as error:
        raise ImportRefusedError(f"the source cannot be read: {error}") from error


async def _check_schema(connection: Connection) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for table, required in _REQUIRED.items():
        columns = {row["name"]: row["type"] for row in await connection.fetch(_COLUMNS, table)}
        if not columns:
            raise ImportRefusedError(f"this is no database of Ango: it has no table {table}")
        missing = [name for name in required if name not in columns]
        if missing:
            raise ImportRefusedError(f"this is no database of Ango: {table} has no column {', '.join(missing)}")
        found[table] = columns
    return found
