"""The staging table of one load: rows of a file, freed of duplicates, numbered and moved into a batch.

All of it lives in temporary tables of one connection, so that a load that dies leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.pools.pool import lock_seqs
from issuer.storage.postgres import AnyConnection

LONG_S: Final = 86_400.0
"""Time limit of statements that move a whole file."""

_CREATE = """
DROP TABLE IF EXISTS pg_temp.staged;
CREATE TEMPORARY TABLE staged (row bigint, client integer, number bigint, code text COLLATE "C")
"""
_TUNE = "SET LOCAL work_mem = '64MB'; SET LOCAL jit = off; SET LOCAL enable_hashagg = off"

_REFUSED = """
CREATE TEMPORARY TABLE refused (row bigint PRIMARY KEY) ON COMMIT DROP
"""
# Numbers sort several times faster than codes do, and most files repeat none. Codes that only share a hash cost a look.
_MAY_REPEAT = """
SELECT EXISTS (SELECT FROM staged GROUP BY hashtextextended(code, 0) HAVING count(*) > 1)
"""
_REPEATED = """
INSERT INTO refused SELECT row FROM (
    SELECT row, row_number() OVER (PARTITION BY code ORDER BY row) AS occurrence FROM staged
) AS numbered WHERE occurrence > 1
"""
# A probe of the index for each row, whatever the planner thinks of tables that it has no statistics of: the cost is
# bounded by the file and does not grow with what other batches hold. A subquery for a value, not an EXISTS: the
# planner may turn that into a join that walks the whole file for each code of a batch which it takes for empty.
_PROBE = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
_PROBED = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SET LOCAL enable_seqscan = on"
_IN_BATCH = """
INSERT INTO refused SELECT s.row FROM staged s
WHERE (SELECT c.seq FROM codes c WHERE c.code = s.code AND c.batch_id = $1) IS NOT NULL
ON CONFLICT (row) DO NOTHING
"""
_KEPT = """
CREATE TEMPORARY TABLE kept ON COMMIT DROP AS
SELECT client, row_number() OVER (PARTITION BY client ORDER BY row) AS number, code FROM staged s
WHERE NOT EXISTS (SELECT 1 FROM refused r WHERE r.row = s.row)
"""
_COUNTS = "SELECT client, count(*) AS count, sum(octet_length(code)) AS bytes FROM {table} GROUP BY client ORDER BY 1"

_NEW_POOLS = """
INSERT INTO pools (batch_id, client_id) SELECT $1, client_id FROM unnest($2::uuid[]) AS client_id
ON CONFLICT (batch_id, client_id) DO NOTHING
"""
_INSERT = """
INSERT INTO codes (pool_id, seq, batch_id, code)
SELECT p.pool_id, p.base + k.number, $1, k.code
FROM {table} k JOIN unnest($2::integer[], $3::bigint[], $4::bigint[]) AS p (client, pool_id, base) USING (client)
"""
_LOCK = "SELECT FROM pools WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE"
_RAISE = """
UPDATE pools SET total = p.base + p.count FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS p (id, base, count)
WHERE pools.id = p.id AND pools.total = p.base
"""


class PoolChangedError(Exception):
    """Codes were added to a pool without the lock that whoever gives seqs must hold."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one client of the file gets: new codes, their bytes, and the pool's total before them (0: no pool)."""

    client: int
    count: int
    code_bytes: int
    base: int


@dataclass(frozen=True, slots=True)
class Numbering:
    """The codes of a file that are new to the batch, and how many are not."""

    repeated: int
    in_batch: int
    shares: Sequence[Share]
    table: str


@asynccontextmanager
async def staging_table(connection: AnyConnection) -> AsyncIterator[None]:
    """An empty staging table, dropped in the end."""
    await connection.execute(_CREATE)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("DROP TABLE IF EXISTS pg_temp.staged", timeout=LONG_S)


async def copy_rows(connection: AnyConnection, rows: AsyncIterator[bytes]) -> None:
    """Rows as CodeCsv makes them into the staging table."""
    await connection.copy_to_table("staged", source=rows, format="text", timeout=LONG_S)


async def number_rows(connection: AnyConnection, batch_id: UUID | None, clients: Sequence[UUID]) -> Numbering:
    """Finds duplicates (the first in the file wins) and numbers what is new. In a transaction that goes on.

    From here to its end nobody else gives seqs in the batch.
    """
    await connection.execute(_TUNE)
    if batch_id is not None:
        await lock_seqs(connection, batch_id)
    totals = await _totals(connection, batch_id, clients)
    await connection.execute(_REFUSED)
    repeated = in_batch = 0
    if await connection.fetchval(_MAY_REPEAT, timeout=LONG_S):
        repeated = _count(await connection.execute(_REPEATED, timeout=LONG_S))
    if await connection.fetchval("SELECT EXISTS (SELECT 1 FROM pools WHERE batch_id = $1 AND total > 0)", batch_id):
        await connection.execute(_PROBE)
        in_batch = _count(await connection.execute(_IN_BATCH, batch_id, timeout=LONG_S))
        await connection.execute(_PROBED)
    table = "staged"
    if repeated or in_batch:
        await connection.execute(_KEPT, timeout=LONG_S)
        table = "kept"
    rows = await connection.fetch(_COUNTS.format(table=table), timeout=LONG_S)
    shares = [
        Share(row["client"], row["count"], int(row["bytes"]), totals.get(clients[row["client"]], 0)) for row in rows
    ]
    return Numbering(repeated, in_batch, shares, table)


async def insert_codes(
    connection: AnyConnection, batch_id: UUID, clients: Sequence[UUID], numbering: Numbering
) -> None:
    """Puts what `number_rows` found into the batch, behind each pool's total, and raises the totals. Same transaction.

    Raises PoolChangedError; the transaction must be rolled back then.
    """
    shares = numbering.shares
    if not shares:
        return
    ids = [clients[share.client] for share in shares]
    await connection.execute(_NEW_POOLS, batch_id, ids)
    rows = await connection.fetch(
        "SELECT id, client_id FROM pools WHERE batch_id = $1 AND client_id = ANY ($2)", batch_id, ids
    )
    pool_of = {row["client_id"]: row["id"] for row in rows}
    pools = [pool_of[client_id] for client_id in ids]
    bases = [share.base for share in shares]
    await connection.execute(
        _INSERT.format(table=numbering.table), batch_id, [s.client for s in shares], pools, bases, timeout=LONG_S
    )
    await connection.execute(_LOCK, pools)
    raised = await connection.execute(_RAISE, pools, bases, [share.count for share in shares], timeout=LONG_S)
    if _count(raised) != len(shares):
        raise PoolChangedError(f"batch {batch_id}: a pool's total changed while codes were added")


async def _totals(connection: AnyConnection, batch_id: UUID | None, clients: Sequence[UUID]) -> dict[UUID, int]:
    rows = await connection.fetch(
        "SELECT client_id, total FROM pools WHERE batch_id = $1 AND client_id = ANY ($2)", batch_id, clients
    )
    return {row["client_id"]: row["total"] for row in rows}


def _count(status: str) -> int:
    """The number of rows from a command's tag, as in ``INSERT 0 5``."""
    return int(status.rpartition(" ")[2])
