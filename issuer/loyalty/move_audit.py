"""The audit of points moves: each has its entries, and a purchase has a code in the ledger exactly if it is done.

A done purchase whose code is not in the ledger yet is looked for in the streams and the dead letters, then in the
ledger once more, since the worker may have moved its event there meanwhile. So it is exact while purchases continue. A
code that a lost Redis had issued and not recorded is quarantined: it is accounted for, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.batches.window_rebuild import find_dead_letters, read_backlog
from issuer.contract.keys import partition_of
from issuer.storage.postgres import Pool, unavailable_translated
from issuer.storage.stores import Stores

MAX_SHOWN: Final = 20
TIMEOUT_S: Final = 600.0

# A transfer of nothing has no entries: a merge of an empty account.
_ENTRIES: Final = """
WITH lines AS (
  SELECT e.move_id, sum(e.points) FILTER (WHERE e.op IN ('spend', 'transfer_out')) AS debited,
    sum(e.points) FILTER (WHERE e.op = 'undo') AS restored,
    sum(e.points) FILTER (WHERE e.op = 'transfer_in') AS credited
  FROM entries e WHERE e.move_id IS NOT NULL GROUP BY e.move_id)
SELECT m.id, concat_ws('; ',
    CASE WHEN coalesce(l.debited, 0) <> m.points THEN 'its entries debit ' || coalesce(l.debited, 0) END,
    CASE WHEN m.kind <> 'purchase' AND coalesce(l.credited, 0) <> m.points
      THEN 'its entries credit ' || coalesce(l.credited, 0) END,
    CASE WHEN coalesce(l.restored, 0) <> CASE WHEN m.state = 'undone' THEN m.points ELSE 0 END
      THEN 'its entries restore ' || coalesce(l.restored, 0) END) AS problem
FROM moves m LEFT JOIN lines l ON l.move_id = m.id
WHERE coalesce(l.debited, 0) <> m.points OR m.kind <> 'purchase' AND coalesce(l.credited, 0) <> m.points
  OR coalesce(l.restored, 0) <> CASE WHEN m.state = 'undone' THEN m.points ELSE 0 END
ORDER BY m.id LIMIT $1"""

_ISSUED_FOR_NOTHING: Final = """
SELECT m.id, 'it is undone, but the code ' || r.code || ' was issued for it' AS problem
FROM purchases p JOIN moves m ON m.id = p.move_id AND m.state = 'undone'
JOIN redemptions r ON r.key_hash = p.key_hash AND r.batch_id = m.batch_id
ORDER BY m.id LIMIT $1"""

_NOT_RECORDED: Final = """
SELECT m.id, m.batch_id, m.code, p.key_hash, l.id AS pool_id
FROM purchases p JOIN moves m ON m.id = p.move_id AND m.state = 'done'
LEFT JOIN pools l ON l.batch_id = m.batch_id AND l.client_id = p.client_id
LEFT JOIN redemptions r ON r.code = m.code AND r.batch_id = m.batch_id AND r.key_hash = p.key_hash
WHERE r.code IS NULL AND ($1::uuid[] IS NULL OR m.id = ANY($1)) AND NOT EXISTS (
  SELECT FROM codes c JOIN quarantined q ON q.pool_id = c.pool_id AND q.seq = c.seq AND q.released_at IS NULL
  WHERE c.code = m.code AND c.client_id = p.client_id)"""


@dataclass(frozen=True, slots=True)
class MoveProblem:
    """A points move that does not hold, with what is wrong."""

    move_id: UUID
    problem: str

    def to_json(self) -> dict[str, Any]:
        return {"move_id": str(self.move_id), "problem": self.problem}


async def find_wrong_moves(stores: Stores) -> list[MoveProblem]:
    """Return the first moves that do not hold, at most MAX_SHOWN of each kind. Change nothing.

    Raises PostgresUnavailableError and RedisUnavailableError.
    """
    found: list[MoveProblem] = []
    for query in (_ENTRIES, _ISSUED_FOR_NOTHING):
        found += [MoveProblem(row["id"], row["problem"]) for row in await _fetch(stores.postgres, query, MAX_SHOWN)]
    missing = await _fetch(stores.postgres, _NOT_RECORDED, None)
    if missing:
        unrecorded = await _find_unrecorded(stores, missing)
        missing = [row for row in missing if (row["key_hash"], row["code"]) not in unrecorded]
        missing = await _fetch(stores.postgres, _NOT_RECORDED, [row["id"] for row in missing]) if missing else []
    problem = "it is done, but its code is neither in the ledger nor on its way there"
    return found + [MoveProblem(row["id"], problem) for row in missing[:MAX_SHOWN]]


async def _find_unrecorded(stores: Stores, missing: list[asyncpg.Record]) -> set[tuple[bytes | None, str]]:
    """Return what the streams and the dead letters have: each code with the key under which it was issued."""
    found: set[tuple[bytes | None, str]] = set()
    for partition in {partition_of(row["batch_id"], stores.redis.partitions) for row in missing}:
        async for page in read_backlog(stores.redis.client, partition):
            found |= {(each.key_hash, each.code) for each in page}
    pools = sorted({row["pool_id"] for row in missing if row["pool_id"] is not None})
    async with unavailable_translated(), stores.postgres.acquire() as connection:
        letters = await find_dead_letters(connection, pools)
    return found | {(each.key_hash, each.code) for each in letters}


async def _fetch(postgres: Pool, query: str, *values: object) -> list[asyncpg.Record]:
    async with unavailable_translated():
        return await postgres.fetch(query, *values, timeout=TIMEOUT_S)
