"""What comes from epochs that were lost: redemptions that are void, and rows that Redis does not know of.

Each recovery stores the serials with which its epoch begins, and after a loss the seqs that no caller received. A
redemption of an earlier epoch with a higher serial, or with such a seq, may still come from an old stream, an old
primary or a journal; it is refused, since its code is issued again. A row that was recorded after Redis was rebuilt is
listed, until Redis has its window and its answer (`issuer.recovery.aftermath`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from issuer.contract.events import RedemptionColumns
from issuer.storage.postgres import AnyConnection

log = structlog.get_logger()

_VOID: Final = """
SELECT e.place - 1 AS place, coalesce(base.epoch, v.epoch) AS epoch, b.partition
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
  WITH ORDINALITY AS e(pool_id, seq, epoch, serial, place)
JOIN pools p ON p.id = e.pool_id JOIN batches b ON b.id = p.batch_id
LEFT JOIN void_seqs v ON v.pool_id = e.pool_id AND v.seq = e.seq
LEFT JOIN LATERAL (
  SELECT epoch FROM epoch_bases base
  WHERE base.partition = b.partition AND base.epoch > e.epoch AND base.serial < e.serial ORDER BY base.epoch LIMIT 1
) base ON true
WHERE v.seq IS NOT NULL OR base.epoch IS NOT NULL"""

_COUNT: Final = """
UPDATE epoch_bases b SET refused = b.refused + n.refused
FROM (SELECT epoch, partition, count(*) AS refused FROM unnest($1::bigint[], $2::int[]) AS r(epoch, partition)
      GROUP BY epoch, partition) AS n
WHERE b.epoch = n.epoch AND b.partition = n.partition"""

# The rows of this very transaction.
_LIST_LATE: Final = """
INSERT INTO late_rows (pool_id, seq)
SELECT e.pool_id, e.seq FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS e(pool_id, seq, epoch)
WHERE e.epoch <= $4 AND EXISTS (
  SELECT FROM redemptions r WHERE r.pool_id = e.pool_id AND r.seq = e.seq AND r.recorded_at = now()
  UNION ALL
  SELECT FROM consumptions c WHERE c.pool_id = e.pool_id AND c.seq = e.seq AND c.recorded_at = now())
ON CONFLICT DO NOTHING"""


async def refuse_void(
    connection: AnyConnection, columns: RedemptionColumns, addressable: Sequence[int]
) -> frozenset[int]:
    """Return the places of the void ones among `addressable`, and count them, in the caller's transaction."""
    some = columns.take(addressable)
    rows = await connection.fetch(_VOID, some.pool_ids, some.seqs, some.epochs, some.serials)
    if rows:
        log.warning("refused redemptions that no caller received before Redis was lost", redemptions=len(rows))
        await connection.execute(_COUNT, [row["epoch"] for row in rows], [row["partition"] for row in rows])
    return frozenset(addressable[row["place"]] for row in rows)


async def list_late(connection: AnyConnection, columns: RedemptionColumns, lost_epoch: int) -> None:
    """List the rows of lost epochs that this transaction has recorded: Redis was rebuilt without them."""
    await connection.execute(_LIST_LATE, columns.pool_ids, columns.seqs, columns.epochs, lost_epoch)
