"""Duplicates of a load: rows of the staging table whose code the file, the batch or the client has already.

A client has a code once, in whatever batch, also in one that has ended. A batch has a code once, whatever pool it is
in. The first of these reasons that applies counts: in the file, in the batch, in another batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from issuer.loading.report import ClientReport, OtherBatch, RepeatedRow, RowInOtherBatch
from issuer.storage.postgres import FILE_TIMEOUT_S, AnyConnection

MAX_ROWS: Final = 1_000
"""Rows of each kind that are reported one by one; further ones are only counted."""
MAX_OWNERS: Final = 20
MAX_OTHER_BATCHES: Final = 20
"""Other batches that are reported by name, those with most of the codes first."""

# batch_id: the batch that has the code; null: an earlier row of the file has it, the one in first_row.
CREATE_REFUSED: Final = """
CREATE TEMPORARY TABLE refused (row bigint PRIMARY KEY, batch_id uuid, first_row bigint) ON COMMIT DROP
"""
# Hashes sort several times faster than codes, and most files have no duplicates. A hash collision costs one query more.
_MAY_REPEAT: Final = """
SELECT EXISTS (SELECT FROM staged GROUP BY hashtextextended(code, 0) HAVING count(*) > 1)
"""
_REFUSE_REPEATED: Final = """
INSERT INTO refused SELECT row, NULL, first_row FROM (
    SELECT row, first_value(row) OVER (PARTITION BY code ORDER BY row) AS first_row FROM staged
) AS numbered WHERE row <> first_row
"""
# Force one index probe per row, although the planner has no statistics of these tables: the cost is bounded by the file
# and does not grow with other batches. A scalar subquery, not EXISTS: the planner may turn that into a join that
# scans the whole file for each code of a batch that it assumes to be empty.
FORCE_PROBES: Final = (
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
)
_ALLOW_JOINS: Final = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SET LOCAL enable_seqscan = on"
# The codes of all clients by the prefix of the index; needed only where a batch has several clients.
REFUSE_IN_BATCH: Final = """
INSERT INTO refused SELECT s.row, $1 FROM staged s
WHERE (SELECT c.seq FROM codes c WHERE c.code = s.code AND c.batch_id = $1 LIMIT 1) IS NOT NULL
ON CONFLICT (row) DO NOTHING
"""
# OFFSET 0: otherwise the planner may probe twice, once for the condition and once for the value.
REFUSE_OWNED: Final = """
INSERT INTO refused SELECT row, batch_id FROM (
    SELECT s.row, (
        SELECT c.batch_id FROM codes c WHERE c.code = s.code AND c.client_id = ($1::uuid[])[s.client + 1]
    ) AS batch_id
    FROM staged s OFFSET 0
) AS probed WHERE batch_id IS NOT NULL
ON CONFLICT (row) DO NOTHING
"""
_HAVE_CODES: Final = """
SELECT EXISTS (
    SELECT FROM pools p JOIN batches b ON b.id = p.batch_id
    WHERE p.client_id = ANY ($1) AND p.total > 0 AND b.kind = 'codes'
)
"""
_IS_SHARED: Final = """
SELECT EXISTS (SELECT FROM pools WHERE batch_id = $1 AND total > 0) AND (
    SELECT count(*) > 1 FROM (
        SELECT client_id FROM pools WHERE batch_id = $1 AND total > 0 UNION SELECT unnest($2::uuid[])
    ) AS clients
)
"""
_COUNT_REFUSED: Final = """
SELECT count(*) FILTER (WHERE batch_id IS NULL) AS in_file, count(*) FILTER (WHERE batch_id = $1) AS in_batch,
    count(*) FILTER (WHERE batch_id IS DISTINCT FROM $1 AND batch_id IS NOT NULL) AS in_others
FROM refused
"""
_OTHER_BATCHES: Final = """
SELECT b.id, b.name, count(*) AS codes FROM refused r JOIN batches b ON b.id = r.batch_id
WHERE r.batch_id IS DISTINCT FROM $1 GROUP BY b.id ORDER BY codes DESC, b.id LIMIT $2
"""
_ROWS_IN_OTHERS: Final = """
SELECT r.row, b.id, b.name FROM refused r JOIN batches b ON b.id = r.batch_id
WHERE r.batch_id IS DISTINCT FROM $1 ORDER BY r.row LIMIT $2
"""
_REPEATED_ROWS: Final = "SELECT row, first_row FROM refused WHERE first_row IS NOT NULL ORDER BY row LIMIT $1"
# One probe for each row, as REFUSE_IN_BATCH.
_OWNERS: Final = """
SELECT owner AS id, min(c.name) AS name, count(*) AS codes FROM (
    SELECT (SELECT c.client_id FROM codes c WHERE c.code = s.code AND c.batch_id = $1 LIMIT 1) AS owner
    FROM refused r JOIN staged s ON s.row = r.row WHERE r.batch_id = $1 OFFSET 0
) AS owned LEFT JOIN clients c ON c.id = owner
WHERE owner <> ALL ($2::uuid[]) GROUP BY owner ORDER BY codes DESC, owner LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many rows were refused for which reason, and the other batches that have codes of the file."""

    in_file: int = 0
    in_batch: int = 0
    in_other_batches: int = 0
    other_batches: Sequence[OtherBatch] = field(default=())
    rows: Sequence[RowInOtherBatch] = field(default=())
    repeated: Sequence[RepeatedRow] = field(default=())

    @property
    def count(self) -> int:
        return self.in_file + self.in_batch + self.in_other_batches


async def refuse_duplicates(connection: AnyConnection, batch_id: UUID | None, clients: Sequence[UUID]) -> None:
    """List the duplicates in the table `refused`. The caller's transaction has locked batch and clients."""
    await connection.execute(CREATE_REFUSED)
    if await connection.fetchval(_MAY_REPEAT, timeout=FILE_TIMEOUT_S):
        await connection.execute(_REFUSE_REPEATED, timeout=FILE_TIMEOUT_S)
    await connection.execute(FORCE_PROBES)
    if await connection.fetchval(_IS_SHARED, batch_id, clients):
        await connection.execute(REFUSE_IN_BATCH, batch_id, timeout=FILE_TIMEOUT_S)
    if await connection.fetchval(_HAVE_CODES, clients):
        await connection.execute(REFUSE_OWNED, clients, timeout=FILE_TIMEOUT_S)
    await connection.execute(_ALLOW_JOINS)


async def owners_in_batch(
    connection: AnyConnection, batch_id: UUID | None, clients: Sequence[UUID]
) -> list[ClientReport]:
    """Return other clients than `clients` that have codes of the file in the batch, at most MAX_OWNERS."""
    await connection.execute(FORCE_PROBES)
    rows = await connection.fetch(_OWNERS, batch_id, clients, MAX_OWNERS, timeout=FILE_TIMEOUT_S)
    await connection.execute(_ALLOW_JOINS)
    return [ClientReport(UUID(bytes=row["id"].bytes), row["name"], row["codes"]) for row in rows]


async def count_duplicates(connection: AnyConnection, batch_id: UUID | None) -> Duplicates:
    """Return what `refuse_duplicates` has listed."""
    counts = await connection.fetchrow(_COUNT_REFUSED, batch_id, timeout=FILE_TIMEOUT_S)
    assert counts is not None
    repeated, others, rows = list[asyncpg.Record](), list[asyncpg.Record](), list[asyncpg.Record]()
    if counts["in_file"]:
        repeated = await connection.fetch(_REPEATED_ROWS, MAX_ROWS, timeout=FILE_TIMEOUT_S)
    if counts["in_others"]:
        others = await connection.fetch(_OTHER_BATCHES, batch_id, MAX_OTHER_BATCHES, timeout=FILE_TIMEOUT_S)
        rows = await connection.fetch(_ROWS_IN_OTHERS, batch_id, MAX_ROWS, timeout=FILE_TIMEOUT_S)
    return Duplicates(
        counts["in_file"],
        counts["in_batch"],
        counts["in_others"],
        [OtherBatch(UUID(bytes=row["id"].bytes), row["name"], row["codes"]) for row in others],
        [RowInOtherBatch(row["row"], UUID(bytes=row["id"].bytes), row["name"]) for row in rows],
        [RepeatedRow(row["row"], row["first_row"]) for row in repeated],
    )
