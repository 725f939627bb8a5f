"""Erasure of a member: personal data and cards are removed; accounts and their entries stay, without a name."""

from __future__ import annotations

from typing import Final

from issuer.access import audit
from issuer.loyalty.member import Member, member_from_row
from issuer.loyalty.traces import Person, erase_traces
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool

# Members that were merged into it are the same person.
_LOCK: Final = "SELECT FROM members WHERE id = $1 OR merged_into = $1 ORDER BY id FOR NO KEY UPDATE"
_MEMBERS: Final = """
UPDATE members SET ref = NULL, email = NULL, email_folded = NULL, phone = NULL, name = NULL, locale = NULL,
  marketing = false, marketing_at = NULL, erased_at = coalesce(erased_at, now())
WHERE id = $1 OR merged_into = $1 RETURNING *"""


async def erase_member(postgres: Pool, member: Member, *, actor: str, act: Act[Member] = UNKEPT) -> Member:
    """Erase a member of a client in all of its programs; a repeat changes nothing.

    The audit log has its id, which no longer leads to a person. Raises PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        erased = await erase_member_in(connection, member, actor=actor)
        await act.keep(connection, erased)
    return erased


async def erase_member_in(connection: AnyConnection, member: Member, *, actor: str) -> Member:
    """Erase a member in the caller's transaction."""
    await connection.execute(_LOCK, member.id)
    await erase_traces(connection, await Person.of(connection, member))
    rows = await connection.fetch(_MEMBERS, member.id)
    await audit.record(connection, actor=actor, action="member.erase", subject=f"member:{member.id}", detail={})
    return next(member_from_row(row) for row in rows if row["id"] == member.id)
