"""The searches, each a statement that an index pays for: none reads a table of the ledger from end to end.

`INDEXES` says which, and a test compares the plans with it. `$1` is the client of a bound key; null: every client.
"""

from __future__ import annotations

from typing import Final

MAX_FOUND: Final = 100
"""Rows that one search returns, the newest of them; one more shows that it has found more."""
_LIMIT: Final = MAX_FOUND + 1

CODES: Final = f"""
SELECT pool_id, seq FROM codes WHERE code = $2 AND ($1::uuid IS NULL OR client_id = $1)
ORDER BY pool_id, seq LIMIT {_LIMIT}"""

COUPONS: Final = f"""
SELECT pool_id FROM coupons WHERE fully_folded = $2 AND ($1::uuid IS NULL OR client_id = $1)
ORDER BY pool_id LIMIT {_LIMIT}"""

USES_OF_COUPONS: Final = f"""
SELECT u.pool_id, u.seq FROM unnest($1::bigint[]) AS c (pool_id) CROSS JOIN LATERAL (
  SELECT pool_id, seq, consumed_at FROM consumptions WHERE pool_id = c.pool_id ORDER BY seq DESC LIMIT {_LIMIT}) u
ORDER BY u.consumed_at DESC LIMIT {_LIMIT}"""

# Each customer with the client whose customer it is; null: of every client that $1 allows. The index of redemptions has
# a customer's rows by batch and then by time, so the newest of each batch are read, however many others there are.
_IS_THEIRS: Final = """(coalesce(c.client_id, $1::uuid) IS NULL OR EXISTS (
      SELECT FROM pools p WHERE p.id = u.pool_id AND p.client_id = coalesce(c.client_id, $1::uuid)))"""
CUSTOMERS: Final = f"""
WITH RECURSIVE wanted AS (SELECT * FROM unnest($2::uuid[], $3::uuid[]) AS c (id, client_id)),
batches_of AS (
  SELECT c.id, c.client_id, (
    SELECT r.batch_id FROM redemptions r WHERE r.customer_id = c.id ORDER BY r.batch_id LIMIT 1) AS batch_id
  FROM wanted c
  UNION ALL
  SELECT c.id, c.client_id, (
    SELECT r.batch_id FROM redemptions r WHERE r.customer_id = c.id AND r.batch_id > c.batch_id
    ORDER BY r.batch_id LIMIT 1)
  FROM batches_of c WHERE c.batch_id IS NOT NULL)
SELECT pool_id, seq FROM (
  SELECT found.* FROM batches_of c CROSS JOIN LATERAL (
    SELECT u.pool_id, u.seq, u.redeemed_at AS at FROM redemptions u
    WHERE u.customer_id = c.id AND u.batch_id = c.batch_id AND {_IS_THEIRS}
    ORDER BY u.redeemed_at DESC LIMIT {_LIMIT}) AS found
  UNION ALL
  SELECT found.* FROM wanted c CROSS JOIN LATERAL (
    SELECT u.pool_id, u.seq, u.consumed_at FROM consumptions u WHERE u.customer_id = c.id AND {_IS_THEIRS}
    ORDER BY u.consumed_at DESC LIMIT {_LIMIT}) AS found) AS both_halves
ORDER BY at DESC LIMIT {_LIMIT}"""

USES_OF_ORDER: Final = f"""
SELECT u.pool_id, u.seq FROM consumptions u JOIN pools p ON p.id = u.pool_id
WHERE u.order_id = $2 AND ($1::uuid IS NULL OR p.client_id = $1) ORDER BY u.consumed_at DESC LIMIT {_LIMIT}"""

# The key of an order begins with program and source, of which there are few: each source is looked up by itself.
ORDERS: Final = """
SELECT o.account_id, o.earned_by FROM loyalty_programs p CROSS JOIN LATERAL (
  WITH RECURSIVE sources AS (
    SELECT (SELECT min(source) FROM orders WHERE program_id = p.id) AS source
    UNION ALL
    SELECT (SELECT min(source) FROM orders WHERE program_id = p.id AND source > s.source)
    FROM sources s WHERE s.source IS NOT NULL)
  SELECT source FROM sources WHERE source IS NOT NULL) s
JOIN orders o ON (o.program_id, o.source, o.order_id) = (p.id, s.source, $2)
WHERE $1::uuid IS NULL OR p.client_id = $1"""

USES: Final = """
SELECT u.pool_id, u.seq, u.call_id FROM consumptions u JOIN pools p ON p.id = u.pool_id
WHERE u.pool_id = $2 AND u.seq = $3 AND ($1::uuid IS NULL OR p.client_id = $1)"""

# A member that was merged leads to the one that has everything since. Each client is looked up by itself.
_CLIENTS: Final = "(SELECT DISTINCT client_id FROM loyalty_programs WHERE $1::uuid IS NULL OR client_id = $1) c"
_MEMBER: Final = "SELECT coalesce(m.merged_into, m.id) AS id FROM"
MEMBERS_BY_ID: Final = f"{_MEMBER} members m WHERE m.id = $2 AND ($1::uuid IS NULL OR m.client_id = $1)"
MEMBERS_BY_REF: Final = f"{_MEMBER} {_CLIENTS} JOIN members m ON m.client_id = c.client_id AND m.ref = $2"
MEMBERS_BY_EMAIL: Final = f"{_MEMBER} {_CLIENTS} JOIN members m ON m.client_id = c.client_id AND m.email_folded = $2"
MEMBERS_BY_PHONE: Final = f"{_MEMBER} {_CLIENTS} JOIN members m ON m.client_id = c.client_id AND m.phone = $2"

CARDS: Final = """
SELECT c.account_id FROM cards c JOIN loyalty_programs p ON p.id = c.program_id
WHERE c.number = $2 AND ($1::uuid IS NULL OR p.client_id = $1)"""

INDEXES: Final = {
    CODES: ("codes_code_client_id_key",),
    COUPONS: ("coupons_by_code",),
    USES_OF_COUPONS: ("consumptions_pkey",),
    CUSTOMERS: ("redemptions_by_customer", "consumptions_by_customer"),
    USES_OF_ORDER: ("consumptions_by_order",),
    ORDERS: ("orders_pkey",),
    USES: ("consumptions_pkey",),
    MEMBERS_BY_ID: ("members_pkey",),
    MEMBERS_BY_REF: ("members_client_id_ref_key",),
    MEMBERS_BY_EMAIL: ("members_client_id_email_folded_key",),
    MEMBERS_BY_PHONE: ("members_by_phone",),
    CARDS: ("cards_pkey",),
}
"""The indexes that a search reads the large tables with."""
