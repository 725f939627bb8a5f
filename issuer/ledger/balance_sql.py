"""The queries of a reconciliation: counts for all pools, and single seqs only where the counts differ."""

from typing import Final

TIMEOUT_S: Final = 3600.0

POOLS: Final = """
SELECT pools.id, pools.batch_id, pools.client_id, batches.name, batches.partition
FROM pools JOIN batches ON batches.id = pools.batch_id
WHERE $1::uuid IS NULL OR pools.batch_id = $1 ORDER BY pools.id"""

UNREADABLE: Final = "SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL AND seq IS NULL"

FACTS: Final = """
SELECT id, opened, final_issued, (SELECT max(seq) FROM ledger WHERE pool_id = pools.id) AS highest
FROM pools WHERE id = ANY($1)"""

COUNTS: Final = """
WITH p AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS p(pool_id, issued)),
dead AS MATERIALIZED (
  SELECT DISTINCT d.pool_id, d.seq FROM dead_letters d JOIN p ON p.pool_id = d.pool_id
  WHERE d.resolved_at IS NULL AND d.seq BETWEEN 1 AND p.issued),
quarantine AS MATERIALIZED (
  SELECT s.pool_id, s.seq FROM quarantined s JOIN p ON p.pool_id = s.pool_id
  WHERE s.seq BETWEEN 1 AND p.issued AND s.released_at IS NULL),
void AS MATERIALIZED (
  SELECT v.pool_id, v.seq FROM void_seqs v JOIN p ON p.pool_id = v.pool_id WHERE v.seq BETWEEN 1 AND p.issued
  UNION
  SELECT s.pool_id, s.seq FROM quarantined s JOIN p ON p.pool_id = s.pool_id
  WHERE s.seq BETWEEN 1 AND p.issued AND s.released_at IS NOT NULL)
SELECT p.pool_id,
  (SELECT count(*) FROM ledger r WHERE r.pool_id = p.pool_id AND r.seq BETWEEN 1 AND p.issued) AS ledger,
  (SELECT count(*) FROM quarantine q WHERE q.pool_id = p.pool_id) AS quarantined,
  (SELECT count(*) FROM dead WHERE dead.pool_id = p.pool_id) AS dead_letters,
  (SELECT count(*) FROM void v WHERE v.pool_id = p.pool_id) AS void,
  (SELECT count(*) FROM void v WHERE v.pool_id = p.pool_id
     AND EXISTS (SELECT FROM ledger r WHERE r.pool_id = v.pool_id AND r.seq = v.seq))
  + (SELECT count(*) FROM quarantine q WHERE q.pool_id = p.pool_id
     AND EXISTS (SELECT FROM ledger r WHERE r.pool_id = q.pool_id AND r.seq = q.seq))
  + (SELECT count(*) FROM dead WHERE dead.pool_id = p.pool_id
     AND (EXISTS (SELECT FROM ledger r WHERE r.pool_id = dead.pool_id AND r.seq = dead.seq)
       OR EXISTS (SELECT FROM quarantined s WHERE s.pool_id = dead.pool_id AND s.seq = dead.seq))) AS overlaps
FROM p"""

WRONG_CODES: Final = """
SELECT wrong.pool_id, wrong.seq FROM unnest($1::bigint[], $2::bigint[]) AS p(pool_id, issued)
CROSS JOIN LATERAL (
  SELECT r.pool_id, r.seq FROM redemptions r
  LEFT JOIN codes c ON c.pool_id = r.pool_id AND c.seq = r.seq
  WHERE r.pool_id = p.pool_id AND r.seq BETWEEN 1 AND p.issued
    AND (c.code IS DISTINCT FROM r.code OR c.batch_id IS DISTINCT FROM r.batch_id)
  ORDER BY r.seq LIMIT $3
) wrong"""

# The stream counts last: an event that is recorded or a dead letter already only waits for its acknowledgement.
BACKLOG: Final = """
SELECT count(*) FROM unnest($2::bigint[]) AS e(seq)
WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = $1 AND r.seq = e.seq)
  AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = $1 AND s.seq = e.seq)
  AND NOT EXISTS (SELECT FROM void_seqs v WHERE v.pool_id = $1 AND v.seq = e.seq)
  AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = $1 AND d.seq = e.seq AND d.resolved_at IS NULL)"""

MISSING: Final = """
SELECT e.seq FROM generate_series(1::bigint, $2::bigint) AS e(seq)
WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = $1 AND r.seq = e.seq)
  AND NOT EXISTS (SELECT FROM quarantined s WHERE s.pool_id = $1 AND s.seq = e.seq)
  AND NOT EXISTS (SELECT FROM void_seqs v WHERE v.pool_id = $1 AND v.seq = e.seq)
  AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = $1 AND d.seq = e.seq AND d.resolved_at IS NULL)
  AND NOT EXISTS (SELECT FROM unnest($3::bigint[]) AS s(seq) WHERE s.seq = e.seq)
ORDER BY e.seq LIMIT $4"""

DOUBLED: Final = """
SELECT seq FROM (
  SELECT seq FROM ledger WHERE pool_id = $1 AND seq BETWEEN 1 AND $2
    AND (seq IN (SELECT seq FROM quarantined WHERE pool_id = $1)
      OR seq IN (SELECT seq FROM void_seqs WHERE pool_id = $1)
      OR seq IN (SELECT seq FROM dead_letters WHERE pool_id = $1 AND resolved_at IS NULL))
  UNION
  SELECT seq FROM quarantined WHERE pool_id = $1 AND seq BETWEEN 1 AND $2
    AND seq IN (SELECT seq FROM dead_letters WHERE pool_id = $1 AND resolved_at IS NULL)
) AS twice ORDER BY seq LIMIT $3"""
