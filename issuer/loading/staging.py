"""The staging table of a load: its rows are deduplicated, numbered and moved into a batch.

All tables are temporary tables of one connection, so a load that is killed leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.batches.batch import BatchEndedError
from issuer.loading.duplicates import Duplicates, count_duplicates, owners_in_batch, refuse_duplicates
from issuer.loading.moves import take_unissued
from issuer.loading.report import ClientReport, OtherBatch
from issuer.pools.pool import PoolChangedError, lock_clients, lock_seqs
from issuer.storage.postgres import FILE_TIMEOUT_S, AnyConnection, count_of

_CREATE: Final = """
DROP TABLE IF EXISTS pg_temp.staged;
CREATE TEMPORARY TABLE staged (row bigint, client integer, number bigint, code text COLLATE "C", attributes jsonb)
"""
TUNE: Final = "SET LOCAL work_mem = '64MB'; SET LOCAL jit = off; SET LOCAL enable_hashagg = off"

_CREATE_KEPT: Final = """
CREATE TEMPORARY TABLE kept ON COMMIT DROP AS
SELECT client, row_number() OVER (PARTITION BY client ORDER BY row) AS number, code, attributes FROM staged s
WHERE NOT EXISTS (SELECT 1 FROM refused r WHERE r.row = s.row)
"""
_COUNTS: Final = """
SELECT client, count(*) AS count, sum(octet_length(code) + coalesce(octet_length(attributes::text), 0)) AS bytes
FROM {table} GROUP BY client ORDER BY 1
"""

_NEW_POOLS: Final = """
INSERT INTO pools (batch_id, client_id) SELECT $1, client_id FROM unnest($2::uuid[]) AS client_id
ON CONFLICT (batch_id, client_id) DO NOTHING
"""
_INSERT: Final = """
INSERT INTO codes (pool_id, seq, batch_id, client_id, code, attributes)
SELECT p.pool_id, p.base + k.number, $1, p.client_id, k.code, k.attributes
FROM {table} k JOIN unnest($2::integer[], $3::uuid[], $4::bigint[], $5::bigint[])
AS p (client, client_id, pool_id, base) USING (client)
"""
_LOCK_POOLS: Final = "SELECT FROM pools WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE"
_RAISE_TOTALS: Final = """
UPDATE pools SET total = p.base + p.count FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS p (id, base, count)
WHERE pools.id = p.id AND pools.total = p.base
"""
# The end of a batch waits for this lock, and the load for a running end: so no code is added to a batch that has ended,
# of which none would ever be issued. Taken last, since a pause and every other change of the batch waits for it, too.
_LOCK_OPEN: Final = "SELECT ended_at IS NOT NULL FROM batches WHERE id = $1 FOR SHARE"


@dataclass(frozen=True, slots=True)
class PoolAddition:
    """The new codes of one client of the file: count, bytes, and the pool's total before them (0: no pool)."""

    client: int
    count: int
    code_bytes: int
    base: int


@dataclass(frozen=True, slots=True)
class Numbering:
    """The codes of a file that are new, numbered in `table`, and its duplicates."""

    duplicates: Duplicates
    additions: Sequence[PoolAddition]
    table: str
    moved: Sequence[OtherBatch] = ()
    """The ended batches from which codes were taken over; these codes are among the new ones."""
    owners: Sequence[ClientReport] = ()
    """Where no code is new: the clients beside those of the file that have its codes in the batch."""


@asynccontextmanager
async def staging_table(connection: AnyConnection) -> AsyncIterator[None]:
    """Create an empty staging table for the block; drop it at the end."""
    await connection.execute(_CREATE)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("DROP TABLE IF EXISTS pg_temp.staged", timeout=FILE_TIMEOUT_S)


async def copy_rows(connection: AnyConnection, rows: AsyncIterator[bytes], *, with_attributes: bool = False) -> None:
    """Copy rows in the format of CodeRows into the staging table."""
    columns = ("row", "client", "number", "code", *(("attributes",) if with_attributes else ()))
    await connection.copy_to_table("staged", source=rows, columns=columns, format="text", timeout=FILE_TIMEOUT_S)


async def remove_rows(
    connection: AnyConnection, clients: Sequence[int], *, limit: int
) -> tuple[int, list[tuple[int, int]]]:
    """Remove the rows of clients, given by their indexes. Return how many, and of the first the line and the client."""
    rows = await connection.fetch(
        "SELECT row, client FROM staged WHERE client = ANY ($1) ORDER BY row LIMIT $2", clients, limit,
        timeout=FILE_TIMEOUT_S,
    )  # fmt: skip
    removed = await connection.execute("DELETE FROM staged WHERE client = ANY ($1)", clients, timeout=FILE_TIMEOUT_S)
    return count_of(removed), [(row["row"], row["client"]) for row in rows]


async def number_rows(
    connection: AnyConnection,
    batch_id: UUID | None,
    clients: Sequence[UUID],
    *,
    without: Collection[UUID] = (),
    move: bool = False,
) -> Numbering:
    """Find duplicates (the first row of the file wins) and number the new codes, in the caller's transaction.

    Until the transaction ends, no other session can assign seqs in the batch or add codes of these clients, of which
    those in `without` have no rows. With `move`
    unissued codes of batches that have ended are taken out of them and are new; raises what `take_unissued` raises.
    """
    await connection.execute(TUNE)
    if batch_id is not None:
        await lock_seqs(connection, batch_id)
    await lock_clients(connection, [client for client in clients if client not in without])
    totals = await _totals(connection, batch_id, clients)
    await refuse_duplicates(connection, batch_id, clients)
    moved = await take_unissued(connection, batch_id, clients) if move else ()
    duplicates = await count_duplicates(connection, batch_id)
    table = "staged"
    if duplicates.count:
        await connection.execute(_CREATE_KEPT, timeout=FILE_TIMEOUT_S)
        table = "kept"
    rows = await connection.fetch(_COUNTS.format(table=table), timeout=FILE_TIMEOUT_S)
    additions = [
        PoolAddition(row["client"], row["count"], int(row["bytes"]), totals.get(clients[row["client"]], 0))
        for row in rows
    ]
    is_repeat = duplicates.in_batch and not additions
    owners = await owners_in_batch(connection, batch_id, clients) if is_repeat else ()
    return Numbering(duplicates, additions, table, moved, owners)


async def insert_codes(
    connection: AnyConnection, batch_id: UUID, clients: Sequence[UUID], numbering: Numbering
) -> None:
    """Insert the codes that `number_rows` numbered, after each pool's total, and raise the totals; same transaction.

    Raises BatchEndedError and PoolChangedError: the transaction must then be rolled back.
    """
    additions = numbering.additions
    if not additions:
        return
    ids = [clients[addition.client] for addition in additions]
    await connection.execute(_NEW_POOLS, batch_id, ids)
    rows = await connection.fetch(
        "SELECT id, client_id FROM pools WHERE batch_id = $1 AND client_id = ANY ($2)", batch_id, ids
    )
    pool_of = {row["client_id"]: row["id"] for row in rows}
    pools = [pool_of[client_id] for client_id in ids]
    bases = [addition.base for addition in additions]
    insert, indexes = _INSERT.format(table=numbering.table), [addition.client for addition in additions]
    await connection.execute(insert, batch_id, indexes, ids, pools, bases, timeout=FILE_TIMEOUT_S)
    await connection.execute(_LOCK_POOLS, pools)
    counts = [addition.count for addition in additions]
    raised = await connection.execute(_RAISE_TOTALS, pools, bases, counts, timeout=FILE_TIMEOUT_S)
    if count_of(raised) != len(additions):
        raise PoolChangedError(f"batch {batch_id}: the total of a pool changed while codes were added")
    if await connection.fetchval(_LOCK_OPEN, batch_id):
        raise BatchEndedError("the batch has ended: no codes can be added")


async def _totals(connection: AnyConnection, batch_id: UUID | None, clients: Sequence[UUID]) -> dict[UUID, int]:
    rows = await connection.fetch(
        "SELECT client_id, total FROM pools WHERE batch_id = $1 AND client_id = ANY ($2)", batch_id, clients
    )
    return {row["client_id"]: row["total"] for row in rows}
