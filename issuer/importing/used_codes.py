"""The used codes of an import: recorded in the ledger, at the head of their pools.

A pool that Redis does not have yet is opened behind the highest seq that the ledger has. So used codes get the first
seqs, in the order of their use, and none of them is ever in Redis. A pool that is open must be taken back first
(`issuer.importing.taken_back`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from issuer.importing.report import MAX_PROBLEMS
from issuer.storage.postgres import FILE_TIMEOUT_S, AnyConnection, count_of

IMPORTED_EPOCH: Final = 0
"""The epoch of imported redemptions. No incarnation has it, so no redemption that was issued here does."""

CREATE_ROWS: Final = """
DROP TABLE IF EXISTS pg_temp.imported_rows;
CREATE TEMPORARY TABLE imported_rows (
    row bigint, client integer, number bigint, code text COLLATE "C", customer uuid, customer_text text COLLATE "C",
    used_at timestamptz
)"""
STAGE: Final = "INSERT INTO staged (row, client, number, code) SELECT row, client, number, code FROM imported_rows"

# The used codes of the batch. `recorded`: the epoch of the redemption that the ledger has of the seq; `last`: the
# highest seq of the pool that is accounted for; `fresh`: to be recorded. What Redis has issued of a pool that is opened
# may not be in the ledger yet.
_CREATE_USED: Final = """
CREATE TEMPORARY TABLE used ON COMMIT DROP AS
WITH pool AS MATERIALIZED (
  SELECT id, opened, greatest(0, (SELECT max(seq) FROM redemptions WHERE pool_id = pools.id),
    (SELECT max(seq) FROM quarantined WHERE pool_id = pools.id),
    (SELECT max(seq) FROM dead_letters WHERE pool_id = pools.id)) AS last
  FROM pools WHERE batch_id = $1 AND client_id = ANY ($2)
)
SELECT c.pool_id, c.seq, c.code, i.row, i.customer, i.customer_text, i.used_at, r.epoch AS recorded,
  p.opened, p.last, r.seq IS NULL AND NOT p.opened AND c.seq > p.last AS fresh
FROM imported_rows i
JOIN codes c ON c.code = i.code AND c.client_id = ($2::uuid[])[i.client + 1] JOIN pool p ON p.id = c.pool_id
LEFT JOIN redemptions r ON r.pool_id = c.pool_id AND r.seq = c.seq
WHERE i.used_at IS NOT NULL AND c.batch_id = $1"""
# A pool is opened under this lock, too (issuer.pools.loader): none is opened until the transaction ends.
_LOCK_POOLS: Final = """
SELECT FROM pools WHERE batch_id = $1 AND client_id = ANY ($2) ORDER BY id FOR NO KEY UPDATE"""
_CONFLICTS: Final = """
SELECT code, recorded IS NOT NULL AS issued, count(*) OVER () AS count FROM used
WHERE recorded <> $1 OR (recorded IS NULL AND NOT fresh) ORDER BY row LIMIT $2"""

_OPEN: Final = """
SELECT client_id FROM pools WHERE id IN (SELECT pool_id FROM used WHERE opened AND recorded IS NULL) ORDER BY id"""

# Codes that are used exchange their seqs with unused ones before them, so that the used ones are behind each other.
_CREATE_RENUMBERED: Final = """
CREATE TEMPORARY TABLE renumbered ON COMMIT DROP AS
WITH start AS (
  SELECT pool_id, count(*) AS count, min(last) AS last FROM used WHERE fresh GROUP BY pool_id
), fresh AS (
  SELECT u.pool_id, u.seq, u.last + row_number() OVER (PARTITION BY u.pool_id ORDER BY u.seq) AS wanted,
    s.last + s.count AS "end"
  FROM used u JOIN start s USING (pool_id) WHERE u.fresh
), taken AS (
  SELECT c.pool_id, c.seq, row_number() OVER (PARTITION BY c.pool_id ORDER BY c.seq) AS number
  FROM start s JOIN codes c ON c.pool_id = s.pool_id AND c.seq > s.last AND c.seq <= s.last + s.count
  WHERE NOT EXISTS (SELECT FROM fresh f WHERE f.pool_id = c.pool_id AND f.seq = c.seq)
), vacant AS (
  SELECT pool_id, seq, row_number() OVER (PARTITION BY pool_id ORDER BY seq) AS number FROM fresh WHERE seq > "end"
)
SELECT pool_id, seq, wanted FROM fresh WHERE seq <> wanted
UNION ALL SELECT pool_id, taken.seq, vacant.seq FROM taken JOIN vacant USING (pool_id, number)"""
# In two steps: a seq is unique at every moment.
_RENUMBER: Final = (
    "UPDATE codes c SET seq = -n.wanted FROM renumbered n WHERE c.pool_id = n.pool_id AND c.seq = n.seq",
    "UPDATE codes c SET seq = n.wanted FROM renumbered n WHERE c.pool_id = n.pool_id AND c.seq = -n.wanted",
    "UPDATE used u SET seq = n.wanted FROM renumbered n WHERE u.pool_id = n.pool_id AND u.seq = n.seq",
)

_RECORD: Final = """
INSERT INTO redemptions
  (pool_id, seq, batch_id, code, customer_id, customer_text, redeemed_at, call_id, api_key_id, epoch)
SELECT pool_id, seq, $1, code, customer, customer_text, used_at, $2, 0, $3 FROM used WHERE fresh
ORDER BY pool_id, seq"""
# As if the rules had changed: the push of this revision writes the windows, which then have these redemptions.
_NEW_WINDOWS: Final = """
UPDATE batches SET revision = revision + 1, rules_revision = revision + 1 WHERE id = $1"""


@dataclass(frozen=True, slots=True)
class UsedCodes:
    """How many usages were recorded, those that were not, and the first of these.

    `open_clients`: whose pools are open and have codes that may have to be recorded.
    """

    recorded: int
    conflicts: int
    shown: Sequence[asyncpg.Record]
    open_clients: Sequence[UUID]


async def record_used(connection: AnyConnection, batch_id: UUID, clients: Sequence[UUID], run: UUID) -> UsedCodes:
    """Record the usages of `imported_rows` that the ledger does not have, in the transaction that added the codes."""
    await connection.execute(_LOCK_POOLS, batch_id, clients, timeout=FILE_TIMEOUT_S)
    await connection.execute(_CREATE_USED, batch_id, clients, timeout=FILE_TIMEOUT_S)
    await connection.execute("ANALYZE used", timeout=FILE_TIMEOUT_S)
    await connection.execute(_CREATE_RENUMBERED, timeout=FILE_TIMEOUT_S)
    if await connection.fetchval("SELECT EXISTS (SELECT FROM renumbered)"):
        for statement in _RENUMBER:
            await connection.execute(statement, timeout=FILE_TIMEOUT_S)
    status = await connection.execute(_RECORD, batch_id, run, IMPORTED_EPOCH, timeout=FILE_TIMEOUT_S)
    recorded = count_of(status)
    if recorded:
        await connection.execute(_NEW_WINDOWS, batch_id)
    shown = await connection.fetch(_CONFLICTS, IMPORTED_EPOCH, MAX_PROBLEMS, timeout=FILE_TIMEOUT_S)
    open_clients = [row["client_id"] for row in await connection.fetch(_OPEN, timeout=FILE_TIMEOUT_S)]
    return UsedCodes(recorded, shown[0]["count"] if shown else 0, shown, open_clients)
