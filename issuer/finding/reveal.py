"""Show one code in full. Who saw which code is in the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson

from issuer.access import audit
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import Pool

_CODE: Final = """
SELECT coalesce(c.code, cp.code) AS code, c.attributes::text AS attributes
FROM pools p LEFT JOIN codes c ON c.pool_id = p.id AND c.seq = $3 LEFT JOIN coupons cp ON cp.pool_id = p.id
WHERE p.batch_id = $1 AND p.client_id = $2 AND coalesce(c.code, cp.code) IS NOT NULL"""


class CodeNotFoundError(LookupError):
    """The batch has no such code of the client."""


@dataclass(frozen=True, slots=True)
class RevealedCode:
    """A code in full, with the columns of its file that were kept with it."""

    code: str
    attributes: dict[str, str] | None


async def reveal_code(
    postgres: Pool, batch_id: UUID, client_id: UUID, seq: int, *, actor: str, act: Act[RevealedCode] = UNKEPT
) -> RevealedCode:
    """Return the code with this number in the pool of a client, and write that to the audit log.

    Raises CodeNotFoundError, PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        row = await connection.fetchrow(_CODE, batch_id, client_id, seq)
        if row is None:
            raise CodeNotFoundError("no code found")
        found = RevealedCode(row["code"], None if row["attributes"] is None else orjson.loads(row["attributes"]))
        detail = {"client_id": str(client_id), "seq": seq}
        await audit.record(connection, actor=actor, action="code.reveal", subject=str(batch_id), detail=detail)
        await act.keep(connection, found)
    return found
