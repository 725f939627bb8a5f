"""/g/{program}: where the owner of a gift card looks up its balance, by the number on the card.

The number is sent in the body of a form, so that no log and no history of a browser has it. A number that is unknown,
revoked, of a member or of another program is answered alike, and counts as a failed lookup of its address.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.member_pages.figures import Figures
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.http.pages.visit import PageVisit, open_visit
from issuer.ids import parse_uuid
from issuer.loyalty.account import AccountState
from issuer.loyalty.balances import read_balance
from issuer.loyalty.card_number import show_number
from issuer.loyalty.cards import Card, CardNotFoundError, CardState, find_card
from issuer.loyalty.program import Program, ProgramNotFoundError
from issuer.loyalty.program_store import find_program
from issuer.loyalty.terms import POINTS
from issuer.sessions.session_store import SessionKind

PATH: Final = "/g/{program}"
_PAGE: Final = LocalizedPage("loyalty/balance.html", forms=True)


async def get_form(context: RequestContext) -> Response:
    visit, program = await _visit(context)
    return _page(visit, program)


async def post_number(context: RequestContext) -> Response:
    """Show the balance of a gift card. Raises ProblemError (429) over the limit of failed lookups."""
    visit, program = await _visit(context)
    typed = (await visit.form()).get("number", "")
    postgres, limits = context.services.stores.postgres, context.services.lookup_limits
    with limits.attempt(None, context.address) as attempt:
        card = await _gift_card(context, program, typed)
        if card is None:
            await attempt.failed()
            return _page(visit, program, 404, is_wrong=True)
    assert card.account_id is not None
    return _page(visit, program, card=card, state=await read_balance(postgres, program, card.account_id))


async def _visit(context: RequestContext) -> tuple[PageVisit, Program]:
    """Return the visit and its program. Raises ProgramNotFoundError, also where the program has no gift cards."""
    program_id = parse_uuid(context.request.path_params["program"])
    if program_id is None:
        raise ProgramNotFoundError
    program = await find_program(context.services.stores.postgres, program_id)
    if program.unit == POINTS:
        raise ProgramNotFoundError
    return await open_visit(context, SessionKind.MEMBER, program.id), program


async def _gift_card(context: RequestContext, program: Program, typed: str) -> Card | None:
    try:
        card = await find_card(context.services.stores.postgres, program.id, typed)
    except CardNotFoundError:
        return None
    return card if card.state is CardState.GIFT else None


def _page(
    visit: PageVisit,
    program: Program,
    status: int = 200,
    *,
    card: Card | None = None,
    state: AccountState | None = None,
    is_wrong: bool = False,
) -> Response:
    figures = Figures(program, visit.language)
    response = visit.page(
        _PAGE, status, program=program, root=f"/g/{program.id}", is_wrong=is_wrong,
        number=None if card is None else show_number(card.number),
        balance=None if state is None else figures.points(state.available),
        last_day=None if state is None or not state.buckets else figures.last_day(state.buckets[0].expires_at),
    )  # fmt: skip
    response.headers["cache-control"] = "no-store"
    return response


OPERATIONS: Final = (
    Operation("GET", PATH, get_form, Access.PUBLIC, page=True),
    Operation("POST", PATH, post_number, Access.PUBLIC, page=True),
)
