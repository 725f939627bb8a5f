"""Find the account for what was scanned or typed at a till: a card, an address, a phone number, a member's own id."""

from __future__ import annotations

from issuer.loyalty.card_number import read_number
from issuer.loyalty.member import InvalidMemberError, MemberNotFoundError
from issuer.loyalty.member_search import MemberQuery, list_members
from issuer.loyalty.member_store import find_member
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool


async def find_account_id(postgres: Pool, program: Program, typed: str) -> int | None:
    """Return the account in a program; None: nothing is found, or more than one. Raises PostgresUnavailableError."""
    if not typed:
        return None
    if read_number(typed) is not None and (account_id := await _search(postgres, program, "card", typed)) is not None:
        return account_id
    try:
        found = await find_member(postgres, program, typed)
    except MemberNotFoundError:
        return await _search(postgres, program, "email" if "@" in typed else "phone", typed)
    return None if found.member.erased_at is not None else found.account_id


async def _search(postgres: Pool, program: Program, name: str, typed: str) -> int | None:
    try:
        query = MemberQuery.of({name: typed})
    except InvalidMemberError:
        return None
    items = (await list_members(postgres, program, query, limit=2)).items
    # A phone number may be that of a family.
    return items[0].account_id if len(items) == 1 else None
