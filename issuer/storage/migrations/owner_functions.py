"""Functions of the initial schema that run with the rights of the owner (SECURITY DEFINER).

Each does one thing that the roles of the API and the worker may not do themselves. The bodies are parsed when they are
created, so no search_path can change what their names mean.
"""

from typing import Final

OWNER_FUNCTIONS: Final = """
CREATE FUNCTION end_frozen_recovery(recovery_lock bigint, silent_s double precision) RETURNS SETOF boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND (l.classid, l.objid, l.objsubid) = (0, recovery_lock::oid, 1)
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND a.wait_event_type = 'Client' AND a.state_change < clock_timestamp() - silent_s * interval '1 second'; END;
COMMENT ON FUNCTION end_frozen_recovery IS
    'End the session of a process that holds the recovery lock and that Postgres has not heard from for silent_s.';

CREATE FUNCTION end_abandoned_transactions(older_than_s double precision) RETURNS SETOF boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND a.datname = current_database()
      AND a.xact_start < clock_timestamp() - older_than_s * interval '1 second'
      AND a.pid IN (SELECT pid FROM pg_locks WHERE granted AND relation = 'installation'::regclass); END;
COMMENT ON FUNCTION end_abandoned_transactions IS
    'End the sessions of transactions that hold the installation row and are older than that: a fence waits for them.';

CREATE FUNCTION erase_customer(erased uuid) RETURNS TABLE (batch_id uuid, count bigint, of_coupons boolean)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    WITH redeemed AS (
      UPDATE redemptions r SET customer_id = NULL, customer_text = NULL, key_hash = NULL WHERE r.customer_id = erased
      RETURNING r.batch_id),
    used AS (
      UPDATE consumptions c SET customer_id = NULL, customer_text = NULL, key_hash = NULL WHERE c.customer_id = erased
      RETURNING c.pool_id)
    SELECT redeemed.batch_id, count(*), false FROM redeemed GROUP BY redeemed.batch_id
    UNION ALL
    SELECT p.batch_id, count(*), true FROM used JOIN pools p ON p.id = used.pool_id GROUP BY p.batch_id; END;
COMMENT ON FUNCTION erase_customer IS
    'Erase a customer id from the ledger, with the hashes of the Idempotency-Keys, which were computed with it, and the
text that was given as the id.';

CREATE FUNCTION forget_customer_texts(forgotten uuid[], client uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    WITH redeemed AS (
      UPDATE redemptions r SET customer_text = NULL FROM pools p WHERE r.customer_id = ANY (forgotten)
        AND r.customer_text IS NOT NULL AND p.id = r.pool_id AND p.client_id = client)
    UPDATE consumptions c SET customer_text = NULL FROM pools p WHERE c.customer_id = ANY (forgotten)
      AND c.customer_text IS NOT NULL AND p.id = c.pool_id AND p.client_id = client; END;
COMMENT ON FUNCTION forget_customer_texts IS
    'Erase from the ledger of a client the texts that were given as ids of these customers; the ids stay.';

CREATE FUNCTION reissue_void(pool bigint, at_most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC
    -- The coupon first: every change of a coupon locks it before its pool.
    SELECT FROM coupons c WHERE c.pool_id = pool FOR UPDATE; WITH numbered AS (
      SELECT v.seq AS old, p.total + row_number() OVER (ORDER BY v.seq) AS new
      FROM (SELECT seq FROM void_seqs WHERE pool_id = pool AND reissued_as IS NULL ORDER BY seq LIMIT at_most) AS v
      CROSS JOIN (SELECT total FROM pools WHERE id = pool) AS p),
    moved AS (UPDATE codes c SET seq = n.new FROM numbered n WHERE c.pool_id = pool AND c.seq = n.old),
    marked AS (UPDATE void_seqs v SET reissued_as = n.new FROM numbered n WHERE v.pool_id = pool AND v.seq = n.old),
    released AS (UPDATE quarantined q SET released_as = n.new FROM numbered n WHERE q.pool_id = pool AND q.seq = n.old),
    coupon AS (
      UPDATE coupons c SET released = c.released + (SELECT count(*) FROM numbered) WHERE c.pool_id = pool
      RETURNING c.batch_id),
    revised AS (
      UPDATE batches b SET revision = b.revision + 1 FROM coupon WHERE b.id = coupon.batch_id AND b.ended_at IS NULL),
    raised AS (UPDATE pools p SET total = p.total + (SELECT count(*) FROM numbered) WHERE p.id = pool)
    SELECT count(*) FROM numbered; END;
COMMENT ON FUNCTION reissue_void IS
    'Give the codes of void seqs, which no caller received, new seqs at the tail of their pool; a coupon gets as many
more uses. Return how many. The caller holds the lock of the seqs of the batch.'
"""
