"""The codes that a recovery has quarantined, by name. Who saw them is in the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.access import audit
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.recovery.history import RecoveryNotFoundError
from issuer.storage.postgres import Pool, unavailable_translated

# A released code has a new seq. A use of a coupon has none of its own: its code is the coupon's.
_PAGE: Final = """
SELECT q.pool_id, q.seq, p.batch_id, b.name AS batch_name, p.client_id, coalesce(c.code, cp.code) AS code,
  q.released_at IS NOT NULL AS released
FROM quarantined q JOIN pools p ON p.id = q.pool_id JOIN batches b ON b.id = p.batch_id
LEFT JOIN codes c ON c.pool_id = q.pool_id AND c.seq = coalesce(q.released_as, q.seq)
LEFT JOIN coupons cp ON cp.pool_id = q.pool_id
WHERE q.epoch = $1 AND (q.pool_id, q.seq) > ($2, $3) ORDER BY q.pool_id, q.seq LIMIT $4"""
_EXISTS: Final = "SELECT EXISTS (SELECT FROM incarnations WHERE shard = 0 AND epoch = $1)"


@dataclass(frozen=True, slots=True)
class QuarantinedCode:
    """A code that a customer may have. `released`: it is in stock again, or void."""

    pool_id: int
    seq: int
    batch_id: UUID
    batch_name: str
    client_id: UUID
    code: str | None
    released: bool

    def to_json(self) -> dict[str, Any]:
        """Return the code without its pool, which no request names."""
        return {
            "batch_id": str(self.batch_id), "batch_name": self.batch_name, "client_id": str(self.client_id),
            "seq": self.seq, "code": self.code, "released": self.released,
        }  # fmt: skip


async def name_quarantined(
    postgres: Pool, epoch: int, *, actor: str, limit: int = 100, cursor: str | None = None
) -> Page[QuarantinedCode]:
    """Return one page of the codes that a recovery quarantined, and write that they were seen to the audit log.

    Raises RecoveryNotFoundError, InvalidCursorError, PostgresUnavailableError.
    """
    pool_id, seq = decode_cursor("quarantined", cursor, (int, int)) if cursor else (0, 0)
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        if not await connection.fetchval(_EXISTS, epoch):
            raise RecoveryNotFoundError(f"no recovery began epoch {epoch}")
        rows = await connection.fetch(_PAGE, epoch, pool_id, seq, limit + 1)
        detail = {"codes": min(len(rows), limit), "after": [pool_id, seq]}
        await audit.record(
            connection, actor=actor, action="quarantined.reveal", subject=f"recovery:{epoch}", detail=detail
        )
    codes = [_code(row) for row in rows]
    return Page.of(codes, limit, lambda last: encode_cursor("quarantined", (last.pool_id, last.seq)))


def _code(row: Any) -> QuarantinedCode:
    ids = {name: UUID(bytes=row[name].bytes) for name in ("batch_id", "client_id")}
    return QuarantinedCode(**dict(row) | ids)
