"""…/members/{member}/entries: the ledger of a member's points."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, page_query, page_response
from issuer.http.loyalty.requests import MEMBER_PATH, member_of, program_of
from issuer.http.operations import Operation, RequestContext
from issuer.loyalty.history import list_member_entries
from issuer.loyalty.shown import show_entry

ENTRIES_PATH: Final = MEMBER_PATH + "/entries"


async def get_entries(context: RequestContext) -> Response:
    """Return a page of a member's entries, newest first; behind them those of members that were merged into it."""
    program = await program_of(context)
    limit, cursor = page_query(context.request)
    found = await member_of(context, program, erased=True)
    page = await list_member_entries(context.services.stores.postgres, program, found, limit=limit, cursor=cursor)
    return page_response(page, lambda one: show_entry(one.entry, one.account_id, program.unit))


OPERATIONS: Final = (Operation("GET", ENTRIES_PATH, get_entries, Access.ANY_KEY, query=PAGED),)
