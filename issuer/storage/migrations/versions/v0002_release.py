"""The API may release quarantined codes: a function of the owner moves them, and no others."""

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"

_REQUEUE: Final = """
CREATE FUNCTION requeue_quarantined(pool bigint, held bigint[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    -- The coupon first: every change of a coupon locks it before its pool.
    SELECT FROM coupons c WHERE c.pool_id = pool FOR UPDATE; WITH numbered AS (
      SELECT q.seq AS old, p.total + row_number() OVER (ORDER BY q.seq) AS new
      FROM quarantined q JOIN pools p ON p.id = q.pool_id
      WHERE q.pool_id = pool AND q.seq = ANY (held) AND q.released_at IS NULL),
    moved AS (UPDATE codes c SET seq = n.new FROM numbered n WHERE c.pool_id = pool AND c.seq = n.old),
    marked AS (
      UPDATE quarantined q SET released_at = now(), released_as = n.new FROM numbered n
      WHERE q.pool_id = pool AND q.seq = n.old),
    -- A coupon's uses have no rows that could move: it gets as many more, and the new revision brings them to Redis.
    coupon AS (
      UPDATE coupons c SET released = c.released + (SELECT count(*) FROM numbered) WHERE c.pool_id = pool
      RETURNING c.batch_id),
    revised AS (
      UPDATE batches b SET revision = b.revision + 1 FROM coupon WHERE b.id = coupon.batch_id AND b.ended_at IS NULL),
    raised AS (UPDATE pools p SET total = p.total + (SELECT count(*) FROM numbered) WHERE p.id = pool)
    SELECT count(*) FROM numbered; END;
COMMENT ON FUNCTION requeue_quarantined IS
    'Give quarantined codes new seqs at the tail of their pool; a code keeps its row, and the old seq stays in the table
as released. Return how many. The caller holds the lock of the seqs of the batch.'
"""


def upgrade() -> None:
    for statement in _REQUEUE.split(";\n"):
        op.execute(statement)
