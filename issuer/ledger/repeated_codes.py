"""The check of uniqueness: a client has a code once, whatever batch it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.ledger.balance_sql import TIMEOUT_S
from issuer.storage.postgres import Pool, unavailable_translated

MAX_SHOWN: Final = 20

# Grouped by the code alone, both tables are read in the order of an index. The ledger is asked, too: it shows what was
# issued even if the rows of the codes were changed. A code that is issued has a row in both: count its pools.
_REPEATED: Final = """
WITH texts AS (
  SELECT code FROM codes GROUP BY code HAVING count(*) > 1
  UNION SELECT code FROM redemptions GROUP BY code HAVING count(*) > 1
), places AS (
  SELECT c.code, c.pool_id, c.seq FROM texts JOIN codes c USING (code)
  UNION SELECT r.code, r.pool_id, r.seq FROM texts JOIN redemptions r USING (code)
)
SELECT p.client_id, places.code, array_agg(DISTINCT p.batch_id) AS batch_ids
FROM places JOIN pools p ON p.id = places.pool_id
GROUP BY p.client_id, places.code
HAVING count(*) > 1 AND ($1::uuid IS NULL OR bool_or(p.batch_id = $1))
ORDER BY places.code, p.client_id LIMIT $2"""


@dataclass(frozen=True, slots=True)
class RepeatedCode:
    """A code that one client has more than once, and the batches in which it has it."""

    client_id: UUID
    code: str
    batch_ids: Sequence[UUID]

    def to_json(self) -> dict[str, Any]:
        return {
            "client_id": str(self.client_id), "code": self.code, "batch_ids": [str(batch) for batch in self.batch_ids]
        }  # fmt: skip


async def find_repeated_codes(postgres: Pool, batch_id: UUID | None) -> list[RepeatedCode]:
    """Return the first codes that a client has more than once, at most MAX_SHOWN: all, or those in a batch.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        rows = await postgres.fetch(_REPEATED, batch_id, MAX_SHOWN, timeout=TIMEOUT_S)
    return [
        RepeatedCode(
            UUID(bytes=row["client_id"].bytes), row["code"], [UUID(bytes=one.bytes) for one in row["batch_ids"]]
        )
        for row in rows
    ]
