"""Accounts as the predecessor shows them: a member of the program that ISSUER_FEALTY_PROGRAM names, and its points.

Setting points is an adjustment by the difference, so the history of an account stays; so does debt, which is shown as
a negative number, as the predecessor stored it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from issuer.loyalty.balances import read_balances
from issuer.loyalty.member import InvalidMemberError, fold_email, parse_email
from issuer.loyalty.member_store import PROGRAM_MEMBER, ProgramMember, program_member_from_row
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool, unavailable_translated

CHUNK: Final = 1_000


@dataclass(frozen=True, slots=True)
class FealtyAccount:
    """A member with its points."""

    found: ProgramMember
    points: int

    def to_json(self) -> dict[str, Any]:
        """Return what the predecessor's JSON has, in its order."""
        member = self.found.member
        return {
            # An ObjectId has 12 bytes. These are random but for the version of the UUID.
            "accountid": member.id.hex[:24],
            "rewardpoints": self.points,
            "email": member.email or "",
            "marketing": member.marketing,
        }


_ACCOUNTS: Final = f"""
{PROGRAM_MEMBER} FROM accounts a JOIN members m ON m.id = a.member_id
WHERE a.program_id = $1 AND m.email IS NOT NULL AND m.merged_into IS NULL"""
# A member that was merged is found by its address, as the member that it was merged into.
_ONE: Final = f"""
{PROGRAM_MEMBER}
FROM members given JOIN members m ON m.id = coalesce(given.merged_into, given.id)
JOIN accounts a ON a.program_id = $1 AND a.member_id = m.id
WHERE given.client_id = $2 AND given.email_folded = $3"""
_CHUNK: Final = f"{_ACCOUNTS} AND a.id > $2 ORDER BY a.id LIMIT $3"
_COUNT: Final = f"SELECT count(*) FROM ({_ACCOUNTS}) accounts"


async def find_account(postgres: Pool, program: Program, email: str) -> FealtyAccount | None:
    """Return the account of an address; None: there is none. Raises PostgresUnavailableError."""
    try:
        folded = fold_email(parse_email(email))
    except InvalidMemberError:
        return None
    async with unavailable_translated():
        rows = await postgres.fetch(_ONE, program.id, program.client_id, folded)
    return next(iter(await _accounts(postgres, program, rows)), None)


async def list_accounts(postgres: Pool, program: Program) -> AsyncGenerator[list[FealtyAccount]]:
    """Yield all accounts in the order of their creation, in chunks. Raises PostgresUnavailableError."""
    chunk = await list_chunk(postgres, program, after=0, limit=CHUNK)
    while chunk:
        yield chunk
        if len(chunk) < CHUNK:
            return
        after = chunk[-1].found.account_id
        chunk = await list_chunk(postgres, program, after=after, limit=CHUNK)


async def list_chunk(postgres: Pool, program: Program, *, after: int, limit: int) -> list[FealtyAccount]:
    """Return the first accounts behind the one with this id. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        rows = await postgres.fetch(_CHUNK, program.id, after, limit)
    return await _accounts(postgres, program, rows)


async def count_accounts(postgres: Pool, program: Program) -> int:
    """Return the number of accounts. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        return int(await postgres.fetchval(_COUNT, program.id))


async def _accounts(postgres: Pool, program: Program, rows: Sequence[asyncpg.Record]) -> list[FealtyAccount]:
    found = [program_member_from_row(row) for row in rows]
    states = await read_balances(postgres, program, [one.account_id for one in found])
    return [FealtyAccount(one, states[one.account_id].available - states[one.account_id].debt) for one in found]
