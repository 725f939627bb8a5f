"""Cards: issue, assign, revoke, find and list them. A card is a number that leads to an account."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from issuer.access import audit
from issuer.instants import show_instant
from issuer.loyalty.card_number import draw_numbers, read_number, show_number
from issuer.loyalty.gift_accounts import FirstValue, open_gift_accounts
from issuer.loyalty.program import Program
from issuer.loyalty.terms import POINTS
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

MAX_CARDS: Final = 1_000
"""Cards that one request issues or prints."""


class CardNotFoundError(LookupError):
    """No card of the program has this number."""

    def __init__(self) -> None:
        super().__init__("no card found")


class CardRevokedError(Exception):
    """The card was revoked, and that is final."""

    def __init__(self) -> None:
        super().__init__("the card was revoked, and that is final")


class CardTakenError(Exception):
    """The card belongs to another member, or is a gift card."""

    def __init__(self) -> None:
        super().__init__("the card belongs to another account, and that is final")


class CardBlankError(Exception):
    """The card belongs to no account yet."""

    def __init__(self) -> None:
        super().__init__("the card is not assigned to a member yet")


class CardState(StrEnum):
    """BLANK: of no account yet. ASSIGNED: of a member. GIFT: of an account without a member."""

    BLANK = "blank"
    ASSIGNED = "assigned"
    GIFT = "gift"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Card:
    """A card. `run_id`: the request that issued it, with all others of that request."""

    number: str
    id: int
    program_id: UUID
    account_id: int | None
    member_id: UUID | None
    run_id: UUID
    issued_at: datetime
    revoked_at: datetime | None

    @property
    def state(self) -> CardState:
        if self.revoked_at is not None:
            return CardState.REVOKED
        if self.account_id is None:
            return CardState.BLANK
        return CardState.GIFT if self.member_id is None else CardState.ASSIGNED

    def to_json(self) -> dict[str, Any]:
        """Return the card as the API and the command line show it."""
        return {
            "number": show_number(self.number),
            "state": str(self.state),
            "member_id": None if self.member_id is None else str(self.member_id),
            "run_id": str(self.run_id),
            "issued_at": show_instant(self.issued_at),
            "revoked_at": None if self.revoked_at is None else show_instant(self.revoked_at),
        }


_CARDS: Final = """
SELECT c.number, c.id, c.program_id, c.account_id, a.member_id, c.run_id, c.issued_at, c.revoked_at
FROM cards c LEFT JOIN accounts a ON a.id = c.account_id"""

# A number that is taken is drawn again; ids are assigned in the order of the numbers.
_INSERT: Final = """
INSERT INTO cards (number, program_id, account_id, run_id)
SELECT n.number, $2, n.account_id, $3
FROM unnest($1::text[], $4::bigint[]) WITH ORDINALITY AS n (number, account_id, place) ORDER BY n.place
ON CONFLICT DO NOTHING RETURNING number"""

_LIST: Final = f"""
{_CARDS} WHERE c.program_id = $1 AND ($2::uuid IS NULL OR c.run_id = $2)
AND ($3::uuid IS NULL OR a.member_id = $3) AND c.id > $4 ORDER BY c.id LIMIT $5"""


async def issue_cards(
    postgres: Pool,
    program: Program,
    count: int,
    *,
    account_id: int | None = None,
    value: FirstValue | None = None,
    actor: str,
    act: Act[Sequence[Card]] = UNKEPT,
) -> Sequence[Card]:
    """Issue new cards, in the order in which they are listed and printed.

    With `account_id` all of them are of that account. Without it a card of a program of points is blank; in a program
    of a currency it is a gift card, with an account of its own that has `value`. Raises ValueRefusedError,
    PostgresUnavailableError.
    """
    numbers = await asyncio.to_thread(draw_numbers, count)
    async with act.transaction(postgres) as connection:
        accounts: Sequence[int | None] = [account_id] * count
        if account_id is None and program.unit != POINTS:
            accounts = await open_gift_accounts(connection, program, count, value)
        cards = await _insert_cards(connection, program, numbers, accounts, actor)
        await act.keep(connection, cards)
    return cards


async def _insert_cards(
    connection: AnyConnection, program: Program, numbers: Sequence[str], accounts: Sequence[int | None], actor: str
) -> Sequence[Card]:
    """Insert cards with these numbers in the caller's transaction; one that is taken is replaced by a new number."""
    run_id, count = uuid4(), len(numbers)
    while accounts:
        rows = await connection.fetch(_INSERT, numbers, program.id, run_id, accounts)
        taken = set(numbers) - {row["number"] for row in rows}
        accounts = [account for number, account in zip(numbers, accounts, strict=True) if number in taken]
        numbers = draw_numbers(len(accounts)) if accounts else ()
    detail = {"run_id": str(run_id), "count": count}
    await audit.record(connection, actor=actor, action="card.issue", subject=f"program:{program.id}", detail=detail)
    return [_from_row(row) for row in await connection.fetch(f"{_CARDS} WHERE c.run_id = $1 ORDER BY c.id", run_id)]


async def find_card(connection: Pool | AnyConnection, program_id: UUID, typed: str) -> Card:
    """Return a card of a program by its number, as it was typed or scanned; it may be revoked.

    Raises CardNotFoundError, PostgresUnavailableError.
    """
    number = read_number(typed)
    if number is None:
        raise CardNotFoundError
    async with unavailable_translated():
        row = await connection.fetchrow(f"{_CARDS} WHERE c.number = $1 AND c.program_id = $2", number, program_id)
    if row is None:
        raise CardNotFoundError
    return _from_row(row)


async def find_valid_card(connection: Pool | AnyConnection, program_id: UUID, typed: str) -> Card:
    """Return a card that is not revoked. Raises CardNotFoundError, CardRevokedError, PostgresUnavailableError."""
    card = await find_card(connection, program_id, typed)
    if card.revoked_at is not None:
        raise CardRevokedError
    return card


async def assign_card(
    postgres: Pool, program: Program, typed: str, account_id: int, *, actor: str, act: Act[Card] = UNKEPT
) -> Card:
    """Assign a blank card to the account of a member; a repeat changes nothing.

    Raises CardNotFoundError, CardRevokedError, CardTakenError, PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        card = await _locked(connection, program, typed)
        if card.revoked_at is not None:
            raise CardRevokedError
        if card.account_id not in (None, account_id):
            raise CardTakenError
        if card.account_id is None:
            await connection.execute("UPDATE cards SET account_id = $2 WHERE id = $1", card.id, account_id)
            await _record(connection, card, "card.assign", actor)
            card = await find_card(connection, program.id, card.number)
        await act.keep(connection, card)
    return card


async def revoke_card(postgres: Pool, program: Program, typed: str, *, actor: str, act: Act[Card] = UNKEPT) -> Card:
    """Revoke a card for good; a repeat changes nothing. What its account has stays there.

    Raises CardNotFoundError, PostgresUnavailableError.
    """
    async with act.transaction(postgres) as connection:
        card = await _locked(connection, program, typed)
        if card.revoked_at is None:
            await connection.execute("UPDATE cards SET revoked_at = now() WHERE id = $1", card.id)
            await _record(connection, card, "card.revoke", actor)
            card = await find_card(connection, program.id, card.number)
        await act.keep(connection, card)
    return card


async def replace_card(postgres: Pool, program: Program, typed: str, *, actor: str, act: Act[Card] = UNKEPT) -> Card:
    """Revoke a card and issue another one of the same account: what a lost gift card was worth is not lost.

    Raises CardNotFoundError, CardRevokedError, CardBlankError, PostgresUnavailableError.
    """
    numbers = await asyncio.to_thread(draw_numbers, 1)
    async with act.transaction(postgres) as connection:
        card = await _locked(connection, program, typed)
        if card.revoked_at is not None:
            raise CardRevokedError
        if card.account_id is None:
            raise CardBlankError
        await connection.execute("UPDATE cards SET revoked_at = now() WHERE id = $1", card.id)
        await _record(connection, card, "card.revoke", actor)
        (new,) = await _insert_cards(connection, program, numbers, [card.account_id], actor)
        await act.keep(connection, new)
    return new


async def list_cards(
    postgres: Pool,
    program: Program,
    *,
    run_id: UUID | None = None,
    member_id: UUID | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[Card]:
    """Return one page of the cards of a program, in the order of issue.

    Raises InvalidCursorError and PostgresUnavailableError.
    """
    (after,) = decode_cursor("cards", cursor, (int,)) if cursor else (0,)
    async with unavailable_translated():
        rows = await postgres.fetch(_LIST, program.id, run_id, member_id, after, limit + 1)
    return Page.of([_from_row(row) for row in rows], limit, lambda last: encode_cursor("cards", (last.id,)))


async def _locked(connection: AnyConnection, program: Program, typed: str) -> Card:
    card = await find_card(connection, program.id, typed)
    await connection.execute("SELECT FROM cards WHERE id = $1 FOR NO KEY UPDATE", card.id)
    # Only now: another transaction may have changed the card since it was found.
    return await find_card(connection, program.id, card.number)


async def _record(connection: AnyConnection, card: Card, action: str, actor: str) -> None:
    """Write an entry of the audit log, without the number: that of a gift card is worth money."""
    detail = {"program": str(card.program_id)}
    await audit.record(connection, actor=actor, action=action, subject=f"card:{card.id}", detail=detail)


def _from_row(row: asyncpg.Record) -> Card:
    return Card(
        row["number"], row["id"], _uuid(row["program_id"]), row["account_id"],
        None if row["member_id"] is None else _uuid(row["member_id"]), _uuid(row["run_id"]), row["issued_at"],
        row["revoked_at"],
    )  # fmt: skip


def _uuid(value: UUID) -> UUID:
    """Return a UUID of the standard library for one of the driver."""
    return UUID(bytes=value.bytes)
