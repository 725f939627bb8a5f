"""Moves: a load takes unissued codes over from batches that have ended.

Postgres alone decides. An ended batch is drained once all its redemptions are in the ledger and Redis has none of its
codes left; from then on `final_issued` says which of its codes were ever issued, and nothing changes that. The row of
the code leaves the old pool in the transaction that adds it to the new one, so a code is moved exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from issuer.loading.report import OtherBatch
from issuer.pools.pool import PoolChangedError
from issuer.storage.postgres import FILE_TIMEOUT_S, AnyConnection, count_of


class MoveError(Exception):
    """Codes of an ended batch cannot be moved yet. The message says why and what to do."""


_UNDRAINED: Final = """
SELECT b.id, b.name, b.ended_at IS NOT NULL AS ended FROM batches b
WHERE b.id IN (SELECT batch_id FROM refused) AND b.id IS DISTINCT FROM $1
  AND (b.ended_at IS NOT NULL OR b.ends_at <= now()) AND b.drained_at IS NULL
ORDER BY b.id LIMIT 1
"""
# Seqs above final_issued were never issued. The three tables are asked all the same: a seq that they name may have been
# issued, whatever the counter says.
_CREATE_MOVABLE: Final = """
CREATE TEMPORARY TABLE movable ON COMMIT DROP AS
SELECT r.row, c.pool_id, c.seq, r.batch_id
FROM refused r JOIN batches b ON b.id = r.batch_id JOIN staged s ON s.row = r.row
JOIN codes c ON c.code = s.code AND c.client_id = ($2::uuid[])[s.client + 1] JOIN pools p ON p.id = c.pool_id
WHERE r.batch_id IS DISTINCT FROM $1 AND b.drained_at IS NOT NULL AND c.seq > p.final_issued
  AND NOT EXISTS (SELECT FROM redemptions l WHERE l.pool_id = c.pool_id AND l.seq >= c.seq)
  AND NOT EXISTS (SELECT FROM quarantined q WHERE q.pool_id = c.pool_id AND q.seq = c.seq)
  AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = c.pool_id AND d.seq >= c.seq)
"""
_REMOVE: Final = "DELETE FROM codes USING movable m WHERE codes.pool_id = m.pool_id AND codes.seq = m.seq"
_ACCEPT: Final = "DELETE FROM refused USING movable m WHERE refused.row = m.row"
_COUNT: Final = """
SELECT b.id, b.name, count(*) AS codes FROM movable m JOIN batches b ON b.id = m.batch_id GROUP BY b.id ORDER BY b.id
"""


async def take_unissued(
    connection: AnyConnection, batch_id: UUID | None, clients: Sequence[UUID]
) -> Sequence[OtherBatch]:
    """Remove unissued codes of the staging table from ended batches; they are no longer refused. Return the batches.

    The caller's transaction has locked the clients. Raises MoveError while an ended batch with codes of the file is not
    drained, and PoolChangedError; the transaction must then be rolled back.
    """
    undrained = await connection.fetchrow(_UNDRAINED, batch_id, timeout=FILE_TIMEOUT_S)
    if undrained is not None:
        batch = f"batch {undrained['name']!r} ({undrained['id']})"
        if undrained["ended"]:
            raise MoveError(
                f"{batch} has ended, but not all its redemptions are in the ledger yet: its codes can be moved as soon"
                " as the worker has recorded them; try again in some seconds"
            )
        raise MoveError(
            f"{batch} has passed its end but may still be reopened: end it for good (issuer batches expire,"
            " or expired: true), then try again"
        )
    # With statistics the planner probes the indexes of the large tables, instead of reading all codes.
    await connection.execute("ANALYZE staged, refused", timeout=FILE_TIMEOUT_S)
    await connection.execute(_CREATE_MOVABLE, batch_id, clients, timeout=FILE_TIMEOUT_S)
    await connection.execute("ANALYZE movable", timeout=FILE_TIMEOUT_S)
    moved = [
        OtherBatch(UUID(bytes=row["id"].bytes), row["name"], row["codes"])
        for row in await connection.fetch(_COUNT, timeout=FILE_TIMEOUT_S)
    ]
    if moved:
        removed = count_of(await connection.execute(_REMOVE, timeout=FILE_TIMEOUT_S))
        if removed != sum(batch.codes for batch in moved):
            raise PoolChangedError("codes of an ended batch changed while they were moved")
        await connection.execute(_ACCEPT, timeout=FILE_TIMEOUT_S)
    return moved
