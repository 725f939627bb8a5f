"""The time lines of members: their accounts of points, with the entries, and their cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from issuer.finding.found import EventKind, FoundEvent, FoundMember, mask_code
from issuer.finding.searches import MAX_FOUND
from issuer.loyalty.account import EntryOp
from issuer.loyalty.amounts import show_points
from issuer.storage.postgres import AnyConnection

_MEMBERS: Final = "SELECT id, client_id, ref, created_at, erased_at FROM members WHERE id = ANY ($1::uuid[])"
_ACCOUNTS: Final = """
SELECT a.id FROM members m JOIN accounts a ON a.member_id = m.id
WHERE m.id = ANY ($1::uuid[]) OR m.merged_into = ANY ($1::uuid[])"""
_OWNERS: Final = """
SELECT DISTINCT coalesce(m.merged_into, m.id) AS id FROM accounts a JOIN members m ON m.id = a.member_id
WHERE a.id = ANY ($1::bigint[])"""

# The newest entries of each account or, with an order, those that name it.
_ENTRIES: Final = f"""
SELECT e.op, e.points, e.order_id, e.reason, e.occurred_at, a.member_id, p.name AS program, p.unit, m.code
FROM unnest($1::bigint[]) AS w (id) CROSS JOIN LATERAL (
  SELECT * FROM entries WHERE account_id = w.id AND ($2::text IS NULL OR order_id = $2)
  ORDER BY seq DESC LIMIT {MAX_FOUND + 1}) e
JOIN accounts a ON a.id = e.account_id JOIN loyalty_programs p ON p.id = a.program_id
LEFT JOIN moves m ON m.id = e.move_id"""
_CARDS: Final = f"""
SELECT c.number, c.issued_at, c.revoked_at, p.name AS program, a.member_id
FROM cards c JOIN loyalty_programs p ON p.id = c.program_id LEFT JOIN accounts a ON a.id = c.account_id
WHERE c.account_id = ANY ($1::bigint[]) OR c.number = $2 ORDER BY c.id DESC LIMIT {MAX_FOUND + 1}"""


@dataclass(slots=True)
class AccountLines:
    """Members and the events of their accounts. `cut`: an account has more entries than were read."""

    members: list[FoundMember] = field(default_factory=list)
    events: list[FoundEvent] = field(default_factory=list)
    cut: bool = False


async def read_members(connection: AnyConnection, member_ids: Sequence[UUID], accounts: Sequence[int]) -> AccountLines:
    """Return the members with these ids or accounts, without their entries."""
    owners = await connection.fetch(_OWNERS, accounts) if accounts else []
    ids = list({*member_ids, *(_uuid(row["id"]) for row in owners)})
    lines = AccountLines()
    for row in await connection.fetch(_MEMBERS, ids) if ids else []:
        member = FoundMember(_uuid(row["id"]), _uuid(row["client_id"]), row["ref"], row["erased_at"])
        lines.members.append(member)
        lines.events.append(FoundEvent(row["created_at"], EventKind.JOINED, member_id=member.id))
        if member.erased_at is not None:
            lines.events.append(FoundEvent(member.erased_at, EventKind.ERASED, member_id=member.id))
    return lines


async def accounts_of(connection: AnyConnection, member_ids: Sequence[UUID]) -> list[int]:
    """Return the accounts of members, and of those that were merged into them."""
    return [row["id"] for row in await connection.fetch(_ACCOUNTS, member_ids)] if member_ids else []


async def read_accounts(
    connection: AnyConnection, accounts: Sequence[int], *, order: str | None = None
) -> tuple[list[FoundEvent], bool]:
    """Return the entries of accounts, newest first, and whether there are more. `order`: only those that name it."""
    if not accounts:
        return [], False
    rows = await connection.fetch(_ENTRIES, accounts, order)
    return [_entry(row) for row in rows], len(rows) > MAX_FOUND


async def read_cards(connection: AnyConnection, accounts: Sequence[int], number: str | None) -> list[FoundEvent]:
    """Return what happened to the cards of accounts, and to the one with a number."""
    if not accounts and number is None:
        return []
    return [event for row in await connection.fetch(_CARDS, accounts, number) for event in _card(row)]


def _entry(row: Any) -> FoundEvent:
    op = EntryOp(row["op"])
    code = "" if row["code"] is None else f"code {mask_code(row['code'])}"
    return FoundEvent(
        row["occurred_at"], EventKind.HELD if op is EntryOp.HOLD else EventKind.POINTS, order_id=row["order_id"],
        program=row["program"], member_id=_optional(row["member_id"]),
        points=str(show_points(row["points"], row["unit"])),
        note=": ".join(filter(None, (str(op).replace("_", " "), row["reason"], code))),
    )  # fmt: skip


def _card(row: Any) -> Iterator[FoundEvent]:
    shown = {"program": row["program"], "member_id": _optional(row["member_id"]), "note": mask_code(row["number"])}
    yield FoundEvent(row["issued_at"], EventKind.CARD_ISSUED, **shown)
    if row["revoked_at"] is not None:
        yield FoundEvent(row["revoked_at"], EventKind.CARD_REVOKED, **shown)


def _optional(value: Any) -> UUID | None:
    return None if value is None else _uuid(value)


def _uuid(value: Any) -> UUID:
    return UUID(bytes=value.bytes)
