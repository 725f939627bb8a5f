"""The page of a program: for a visitor the form that signs in, for a member the points and what leads on."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.member_pages.sign_in import SIGN_IN_PAGE
from issuer.http.member_pages.visits import SignedInVisit, for_members, open_member_visit
from issuer.http.operations import RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.loyalty.balances import read_balance
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
    return here.page(
        _OVERVIEW,
        member=here.member,
        balance=balance,
        tier=here.program.terms.tier(balance.lifetime),
        entries=[one.entry for one in recent.items],
        has_more=recent.next_cursor is not None,
    )


@for_members
async def get_history(here: SignedInVisit) -> Response:
    cursor = here.context.request.query_params.get("cursor")
    page = await list_member_entries(here.postgres, here.program, here.found, limit=PAGE_SIZE, cursor=cursor)
    entries = [one.entry for one in page.items]
    return here.page(_HISTORY, entries=entries, next_cursor=page.next_cursor, is_first=cursor is None)
