"""The search: everything that one text can be, each by an index, and one time line of what is found."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from issuer.coupons.folding import fold, fold_fully
from issuer.coupons.uses import parse_consumption_id
from issuer.finding import searches
from issuer.finding.accounts import AccountLines, accounts_of, read_accounts, read_cards, read_members
from issuer.finding.found import Found, FoundBy, FoundCode, FoundEvent, FoundMember
from issuer.finding.places import LedgerPlace, read_places
from issuer.finding.searches import MAX_FOUND
from issuer.ids import InvalidIdError, parse_uuid
from issuer.ledger.redemptions import CodeState, places_of_code
from issuer.loyalty.card_number import read_number
from issuer.loyalty.member import InvalidMemberError, fold_email, parse_phone
from issuer.names import trimmed, without_unseen
from issuer.storage.postgres import AnyConnection, unavailable_translated
from issuer.storage.stores import Stores

MAX_TEXT: Final = 255
MAX_EVENTS: Final = 200
_START: Final = datetime.min.replace(tzinfo=UTC)


class InvalidSearchError(ValueError):
    """The text cannot be searched for. The message says why."""


async def find(stores: Stores, text: str, *, client_id: UUID | None = None) -> Found:
    """Return what a text names: a code, a customer, an order, a use, a member, an e-mail address, a phone or a card.

    With `client_id` only what is that client's. Codes are masked. Raises InvalidSearchError, PostgresUnavailableError.
    """
    text = trimmed(without_unseen(text))
    if not 1 <= len(text) <= MAX_TEXT:
        raise InvalidSearchError(f"q must have 1 to {MAX_TEXT} characters")
    async with (
        unavailable_translated(),
        stores.postgres.acquire() as connection,
        # One snapshot: what moves meanwhile, such as a seq from the backlog to the ledger, is found once.
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        search = _Search(stores, connection, text, client_id)
        found = await search.run()
    if FoundBy.CODE in found.by:
        found.codes = await _with_states(stores, found.codes, text, client_id)
    return found


async def _with_states(
    stores: Stores, codes: Sequence[FoundCode], text: str, client_id: UUID | None
) -> list[FoundCode]:
    """Return the codes with their states, which Redis knows of those that are not in the ledger."""
    places = (await places_of_code(stores, text, client_id=client_id, limit=MAX_FOUND)).items
    states: dict[tuple[UUID, UUID], CodeState] = {(place.batch_id, place.client_id): place.state for place in places}
    return [FoundCode(code.name, states.get((code.name.batch_id, code.name.client_id))) for code in codes]


class _Search:
    """One search in one snapshot."""

    def __init__(self, stores: Stores, connection: AnyConnection, text: str, client_id: UUID | None) -> None:
        self._stores = stores
        self._connection = connection
        self._text = text
        self._client_id = client_id
        self._card = read_number(text)
        self._found = Found()

    async def run(self) -> Found:
        codes = [*await self._places(FoundBy.CODE, searches.CODES, self._text), *await self._coupons()]
        lines, accounts = await self._people()
        places = [*codes, *await self._uses(), *await self._customers(lines.members)]
        known = await read_places(self._connection, places)
        entries, cut = await read_accounts(self._connection, accounts)
        cards = await read_cards(self._connection, accounts, self._card if FoundBy.CARD in self._found.by else None)
        events = {*known.events, *lines.events, *entries, *cards, *await self._order_entries()}
        found = self._found
        found.events = sorted(events, key=lambda event: (event.at or _START, event.kind), reverse=True)[:MAX_EVENTS]
        found.codes = [FoundCode(known.names[place], None) for place in codes if place in known.names]
        found.members = lines.members
        found.cut |= cut or len(events) > MAX_EVENTS
        return found

    async def _rows(self, by: FoundBy, statement: str, *values: object) -> list[Any]:
        """Return the rows of a search, and count what it has found."""
        rows = await self._connection.fetch(statement, self._client_id, *values)
        if rows:
            self._found.by[by] = self._found.by.get(by, 0) + min(len(rows), MAX_FOUND)
            self._found.cut |= len(rows) > MAX_FOUND
        return rows[:MAX_FOUND]

    async def _places(self, by: FoundBy, statement: str, *values: object) -> list[LedgerPlace]:
        return [LedgerPlace(row["pool_id"], row["seq"]) for row in await self._rows(by, statement, *values)]

    async def _coupons(self) -> list[LedgerPlace]:
        """Return the coupons with this code, and their newest uses."""
        rows = await self._rows(FoundBy.COUPON, searches.COUPONS, fold_fully(fold(self._text)))
        pools = [row["pool_id"] for row in rows]
        uses = await self._connection.fetch(searches.USES_OF_COUPONS, pools) if pools else []
        self._found.cut |= len(uses) > MAX_FOUND
        return [*(LedgerPlace(pool, 0) for pool in pools), *(LedgerPlace(*row[:2]) for row in uses[:MAX_FOUND])]

    async def _uses(self) -> list[LedgerPlace]:
        """Return the uses for an order with this id, and the use with this id."""
        uses = await self._places(FoundBy.ORDER, searches.USES_OF_ORDER, self._text)
        name = parse_consumption_id(self._text)
        if name is None:
            return uses
        rows = await self._connection.fetch(searches.USES, self._client_id, name.pool_id, name.seq)
        # Without the proof in the id, a caller could count through the uses.
        found = [row for row in rows if name.is_of(row["call_id"].hex)]
        if found:
            self._found.by[FoundBy.USE] = len(found)
        return [*uses, *(LedgerPlace(row["pool_id"], row["seq"]) for row in found)]

    async def _people(self) -> tuple[AccountLines, list[int]]:
        """Return the members that the text names, and their accounts or, of a gift card, its account."""
        text = self._text
        number = parse_uuid(text)
        if number is None:
            rows = await self._rows(FoundBy.MEMBER, searches.MEMBERS_BY_REF, text)
        else:
            rows = await self._rows(FoundBy.MEMBER, searches.MEMBERS_BY_ID, number)
        if "@" in text:
            rows += await self._rows(FoundBy.EMAIL, searches.MEMBERS_BY_EMAIL, fold_email(text))
        if text.startswith(("+", "00")):
            with suppress(InvalidMemberError):
                rows += await self._rows(FoundBy.PHONE, searches.MEMBERS_BY_PHONE, parse_phone(text))
        of_card: list[int] = []
        if self._card is not None:
            cards = await self._rows(FoundBy.CARD, searches.CARDS, self._card)
            of_card = [row["account_id"] for row in cards if row["account_id"] is not None]
        lines = await read_members(self._connection, [UUID(bytes=row["id"].bytes) for row in rows], of_card)
        accounts = await accounts_of(self._connection, [member.id for member in lines.members])
        return lines, list({*accounts, *of_card})

    async def _customers(self, members: Sequence[FoundMember]) -> list[LedgerPlace]:
        """Return what was issued to the customer with this id, and to the members as customers of their clients."""
        clients: dict[UUID, set[UUID | None]] = {}
        for member in members:
            clients.setdefault(self._stores.identity(member.customer).uuid, set()).add(member.client_id)
        with suppress(InvalidIdError):
            # Of every client: two of them may use one id for two people, and the text does not say whose it is.
            clients[self._stores.identity(self._text).uuid] = {None}
        pairs = [(customer, client) for customer, of in clients.items() for client in of]
        return await self._places(FoundBy.CUSTOMER, searches.CUSTOMERS, *zip(*pairs, strict=True)) if pairs else []

    async def _order_entries(self) -> list[FoundEvent]:
        """Return the entries that name the order with this id."""
        orders = await self._rows(FoundBy.ORDER, searches.ORDERS, self._text)
        accounts = list({row[name] for row in orders for name in ("account_id", "earned_by")})
        return (await read_accounts(self._connection, accounts, order=self._text))[0]
