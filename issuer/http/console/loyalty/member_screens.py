"""…/members: find the members of a program, and one with its balance and entries."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.loyalty.program_screens import ONE, PATH
from issuer.http.loyalty.requests import member_of, program_of
from issuer.http.operations import Operation, RequestContext
from issuer.loyalty.balances import read_balance, read_balances
from issuer.loyalty.history import list_member_entries
from issuer.loyalty.member import InvalidMemberError
from issuer.loyalty.member_search import MemberQuery, list_members
from issuer.loyalty.shown import show_balance, show_entry

PAGE_SIZE: Final = 25
_LIST: Final = ConsolePage("loyalty/members.html")
_SHOW: Final = ConsolePage("loyalty/member.html")


async def get_members(context: RequestContext) -> Response:
    """Show the members whose name, e-mail address or id begins with what was typed, or who have that card."""
    visit = await open_console(context)
    program = await program_of(visit.context)
    query, postgres = context.request.query_params, context.services.stores.postgres
    typed, cursor = query.get("q", "").strip(), query.get("cursor")
    try:
        wanted = MemberQuery.of({"q": typed} if typed else {})
    except InvalidMemberError:
        wanted, typed = MemberQuery(), ""
    page = await list_members(postgres, program, wanted, limit=PAGE_SIZE, cursor=cursor)
    states = await read_balances(postgres, program, [found.account_id for found in page.items])
    members = [(found, show_balance(states[found.account_id], program)) for found in page.items]
    return _LIST.response(
        visit, program=program, page=page, members=members, typed=typed, is_first=cursor is None,
        path=f"{PATH}/{program.id}",
    )  # fmt: skip


async def get_member(context: RequestContext) -> Response:
    visit = await open_console(context)
    program = await program_of(visit.context)
    found = await member_of(visit.context, program, erased=True)
    postgres, cursor = context.services.stores.postgres, context.request.query_params.get("cursor")
    state = await read_balance(postgres, program, found.account_id)
    page = await list_member_entries(postgres, program, found, limit=PAGE_SIZE, cursor=cursor)
    entries = [(one.entry, show_entry(one.entry, one.account_id, program.unit)) for one in page.items]
    return _SHOW.response(
        visit, program=program, found=found, balance=show_balance(state, program), page=page, entries=entries,
        is_first=cursor is None, path=f"{PATH}/{program.id}",
    )  # fmt: skip


OPERATIONS: Final = (
    Operation("GET", ONE + "/members", get_members, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/members/{member:id}", get_member, Access.PUBLIC, page=True),
)
