"""The page of a program: for a visitor the form that signs in, for a member the points and what leads on."""

from __future__ import annotations

from typing import Final

import segno
from markupsafe import Markup
from starlette.responses import Response

from issuer.http.member_pages.rewards import offered_rewards, received_codes
from issuer.http.member_pages.sign_in import SIGN_IN_PAGE
from issuer.http.member_pages.visits import SignedInVisit, for_members, open_member_visit
from issuer.http.operations import RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.loyalty.balances import read_balance
from issuer.loyalty.card_number import show_number
from issuer.loyalty.history import list_member_entries

RECENT: Final = 5
"""Entries on the first page."""
PAGE_SIZE: Final = 25
_OVERVIEW: Final = LocalizedPage("member_pages/overview.html", forms=True)
_HISTORY: Final = LocalizedPage("member_pages/history.html", forms=True)


async def get_overview(context: RequestContext) -> Response:
    here = await open_member_visit(context)
    if not isinstance(here, SignedInVisit):
        return here.page(SIGN_IN_PAGE, email="", is_wrong=False)
    balance = await read_balance(here.postgres, here.program, here.found.account_id)
    recent = await list_member_entries(here.postgres, here.program, here.found, limit=RECENT)
    cards = here.found.cards
    return here.page(
        _OVERVIEW,
        card=show_number(cards[0]) if cards else None,
        qr=Markup(qr_code(cards[0])) if cards else None,
        rewards=await offered_rewards(here, balance),
        codes=await received_codes(here),
        balance=balance,
        tier=here.program.terms.tier(balance.lifetime),
        entries=[one.entry for one in recent.items],
        has_more=recent.next_cursor is not None,
    )


def qr_code(number: str) -> str:
    """Return a card's number as a QR code: SVG that stands in the page and names no file."""
    return str(segno.make(number, error="m").svg_inline(border=2, omitsize=True))


@for_members
async def get_history(here: SignedInVisit) -> Response:
    cursor = here.context.request.query_params.get("cursor")
    page = await list_member_entries(here.postgres, here.program, here.found, limit=PAGE_SIZE, cursor=cursor)
    entries = [one.entry for one in page.items]
    return here.page(_HISTORY, entries=entries, next_cursor=page.next_cursor, is_first=cursor is None)
