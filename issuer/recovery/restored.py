"""What an operator's word that Postgres went back means for the rows that it has: others may have come since.

Runs in the transaction of the fence. What this Postgres does not know was perhaps done after the copy was made: a pool
was opened, the code of a void or quarantined seq got a new one. And no number that was in use then is assigned again:
receipts that come late would be taken for something else.
"""

from __future__ import annotations

from typing import Final

from issuer.storage.postgres import Connection

# A coupon's pool is closed in Redis until the mark has arrived there as a revision.
_OPEN: Final = """
WITH marked AS (UPDATE pools SET opened = true WHERE NOT opened RETURNING batch_id)
UPDATE batches b SET revision = revision + 1 FROM marked WHERE b.id = marked.batch_id AND b.kind = 'coupon'"""

_DOUBT_VOID: Final = """
WITH doubted AS (DELETE FROM void_seqs WHERE reissued_as IS NULL RETURNING pool_id, seq, epoch)
INSERT INTO quarantined (pool_id, seq, epoch) SELECT pool_id, seq, epoch FROM doubted"""

# Their codes may have been released, and issued under new seqs: only an operator decides about them now.
_HOLD_QUARANTINED: Final = """
UPDATE quarantined SET lost_after = NULL, lost_to = NULL WHERE released_at IS NULL AND lost_to IS NOT NULL"""

# The time is above every number that was ever assigned, also by an installation that was restored before.
_SKIP_POOL_IDS: Final = """
SELECT setval(pools_ids, greatest(nextval(pools_ids), (extract(epoch FROM clock_timestamp()) * 1000)::bigint))
FROM (SELECT pg_get_serial_sequence('pools', 'id')::regclass AS pools_ids)"""


async def distrust_rows(connection: Connection) -> None:
    """Treat as possibly issued whatever a later state of this Postgres may have issued."""
    await connection.execute(_OPEN)
    await connection.execute(_DOUBT_VOID)
    await connection.execute(_HOLD_QUARANTINED)
    await connection.execute(_SKIP_POOL_IDS)
