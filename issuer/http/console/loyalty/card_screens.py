"""…/cards: issue cards and print them. …/inbox: what shops have sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.console.loyalty.program_screens import ONE, PATH
from issuer.http.loyalty.card_files import get_sheets
from issuer.http.loyalty.requests import program_of
from issuer.http.operations import Operation, RequestContext
from issuer.ids import parse_uuid
from issuer.loyalty.amounts import InvalidAmountError, parse_points
from issuer.loyalty.cards import MAX_CARDS, Card, issue_cards
from issuer.loyalty.gift_accounts import FirstValue, ValueRefusedError
from issuer.loyalty.hooks.inbox import list_inbox
from issuer.loyalty.program import Program
from issuer.loyalty.terms import POINTS
from issuer.loyalty.work import Actor
from issuer.operators.role import Role

PAGE_SIZE: Final = 25
_CARDS: Final = ConsolePage("loyalty/cards.html")
_INBOX: Final = ConsolePage("loyalty/inbox.html")


async def get_cards(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR)
    program = await program_of(visit.context)
    run_id = parse_uuid(context.request.query_params.get("run", ""))
    return _cards(visit, program, TypedForm({}), run_id=run_id)


async def post_cards(context: RequestContext) -> Response:
    """Issue cards, which the next page offers as sheets to print."""
    visit = await open_console(context, Role.OPERATOR)
    program = await program_of(visit.context)
    typed = TypedForm(await visit.form())
    count = typed.needed_number("count", least=1, most=MAX_CARDS)

    async def show(cards: Sequence[Card]) -> Response:
        path = f"{PATH}/{program.id}/cards?run={cards[0].run_id}"
        return visit.redirect(path, f"{count:,} card{'s'[: count != 1]} issued.")

    act, postgres = await visit.act(show), context.services.stores.postgres
    try:
        value = _value(visit, program, typed.text("amount"))
        if not typed.errors:
            await issue_cards(postgres, program, count, value=value, actor=visit.actor, act=act)
            return act.response
    except InvalidAmountError as error:
        typed.refuse("amount", str(error))
    except ValueRefusedError as error:
        typed.refuse("amount", str(error.refusal))
    return _cards(visit, program, typed, 422)


def _value(visit: ConsoleVisit, program: Program, amount: str) -> FirstValue | None:
    """Return what each gift card has on it; None: the cards are blank."""
    if not amount or program.unit == POINTS:
        return None
    key = visit.context.caller.key
    return FirstValue(parse_points(amount, program.unit, "amount"), Actor(None if key is None else key.id))


def _cards(
    visit: ConsoleVisit, program: Program, typed: TypedForm, status: int = 200, run_id: UUID | None = None
) -> Response:
    return _CARDS.response(
        visit, status, program=program, form=typed, run_id=run_id, is_points=program.unit == POINTS,
        most=MAX_CARDS, path=f"{PATH}/{program.id}",
    )  # fmt: skip


async def get_printed(context: RequestContext) -> Response:
    """Send the sheets of the cards that were issued together, as the API does."""
    visit = await open_console(context, Role.OPERATOR)
    return await get_sheets(visit.context)


async def get_inbox(context: RequestContext) -> Response:
    visit = await open_console(context)
    program = await program_of(visit.context)
    cursor = context.request.query_params.get("cursor")
    page = await list_inbox(context.services.stores.postgres, program_id=program.id, limit=PAGE_SIZE, cursor=cursor)
    return _INBOX.response(visit, program=program, page=page, is_first=cursor is None, path=f"{PATH}/{program.id}")


OPERATIONS: Final = (
    Operation("GET", ONE + "/cards", get_cards, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/cards", post_cards, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/cards.pdf", get_printed, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/inbox", get_inbox, Access.PUBLIC, page=True),
)
