"""The entries of a member: those of its account, newest first, then those of accounts that were merged into it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from issuer.loyalty.account import PointsEntry
from issuer.loyalty.member_store import ProgramMember
from issuer.loyalty.program import Program
from issuer.loyalty.reading import entry_of
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

_MERGED: Final = """
SELECT a.id FROM members m JOIN accounts a ON a.member_id = m.id AND a.program_id = $2
WHERE m.merged_into = $1 ORDER BY a.id DESC"""

_ENTRIES: Final = """
SELECT * FROM entries WHERE account_id = $1 AND ($2::bigint IS NULL OR seq < $2)
ORDER BY seq DESC LIMIT $3"""

_FIND: Final = "SELECT * FROM entries WHERE account_id = $1 AND seq = $2"


class AccountEntry(NamedTuple):
    """An entry and the account that it is of."""

    account_id: int
    entry: PointsEntry


async def account_ids(postgres: Pool | AnyConnection, program: Program, found: ProgramMember) -> list[int]:
    """Return the account of a member in a program, and those of the members that were merged into it."""
    async with unavailable_translated():
        rows = await postgres.fetch(_MERGED, found.member.id, program.id)
    return [found.account_id, *(row["id"] for row in rows)]


async def list_member_entries(
    postgres: Pool | AnyConnection, program: Program, found: ProgramMember, *, limit: int, cursor: str | None = None
) -> Page[AccountEntry]:
    """Return one page of the entries of a member. Raises InvalidCursorError and PostgresUnavailableError."""
    after: tuple[Any, ...] = decode_cursor("entries", cursor, (int, int)) if cursor else (found.account_id, None)
    account_id, seq = after
    ids = await account_ids(postgres, program, found)
    entries: list[AccountEntry] = []
    # A cursor of another member's entries: there is nothing behind it.
    for one in ids[ids.index(account_id) :] if account_id in ids else []:
        async with unavailable_translated():
            rows = await postgres.fetch(_ENTRIES, one, seq if one == account_id else None, limit + 1 - len(entries))
        entries += [AccountEntry(one, entry_of(row, None)) for row in rows]
        if len(entries) > limit:
            break
    return Page.of(entries, limit, lambda last: encode_cursor("entries", (last.account_id, last.entry.seq)))


async def find_entry(postgres: Pool, account_id: int, seq: int) -> PointsEntry | None:
    """Return an entry. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, account_id, seq)
    return None if row is None else entry_of(row, None)
