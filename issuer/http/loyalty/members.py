"""…/programs/{program}/members: create, find, show, change, erase and export members."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, page_query
from issuer.http.loyalty.requests import MEMBER_PATH, MEMBERS_PATH, PROGRAMS_PATH, member_of, program_of
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.account import AccountState
from issuer.loyalty.balances import read_balance, read_balances
from issuer.loyalty.card_number import show_number
from issuer.loyalty.member import MEMBER_FIELDS, Member
from issuer.loyalty.member_erasure import erase_member
from issuer.loyalty.member_search import MemberQuery, list_members
from issuer.loyalty.member_store import MemberWithBalance, ProgramMember, change_member, create_member, join_program
from issuer.loyalty.program import Program
from issuer.loyalty.shown import show_balance
from issuer.loyalty.traces import export_person
from issuer.storage.postgres import unavailable_translated

FOUND_BY: Final = ("email", "phone", "card", "ref", "q")
_JOINING: Final = "member"


def show_member(found: ProgramMember, state: AccountState, program: Program) -> dict[str, Any]:
    """Return a member with the balance of its account in the program."""
    shown = {"account_id": found.account_id, "cards": [show_number(number) for number in found.cards]}
    return {**found.member.to_json(), **shown, **show_balance(state, program)}


async def get_members(context: RequestContext) -> Response:
    """Return a page of the members of a program, those that joined first in front."""
    program = await program_of(context)
    limit, cursor = page_query(context.request)
    postgres, given = context.services.stores.postgres, context.request.query_params
    page = await list_members(
        postgres, program, MemberQuery.of({name: given[name] for name in FOUND_BY if name in given}),
        limit=limit, cursor=cursor,
    )  # fmt: skip
    states = await read_balances(postgres, program, [found.account_id for found in page.items])
    items = [show_member(found, states[found.account_id], program) for found in page.items]
    return json_response({"items": items, "next_cursor": page.next_cursor})


async def post_member(context: RequestContext) -> Response:
    """Create a member, or let a member of the client join another of its programs."""
    program = await program_of(context)
    values = await json_object(context.request, (*MEMBER_FIELDS, _JOINING))
    postgres, actor = context.services.stores.postgres, context.caller.actor
    act = context.act(_shower(program, 201))
    joining = text_field(values, _JOINING)
    if joining is None:
        values.pop(_JOINING, None)
        await create_member(postgres, program, values, actor=actor, act=act)
    elif len(values) > 1:
        raise invalid("member names one that exists: give nothing else beside it")
    else:
        await join_program(postgres, program, joining, actor=actor, act=act)
    return act.response


async def get_member(context: RequestContext) -> Response:
    program = await program_of(context)
    found = await member_of(context, program, erased=True)
    state = await read_balance(context.services.stores.postgres, program, found.account_id)
    return json_response(show_member(found, state, program))


async def patch_member(context: RequestContext) -> Response:
    program = await program_of(context)
    found = await member_of(context, program)
    values = await json_object(context.request, MEMBER_FIELDS)
    act = context.act(_shower(program, 200))
    await change_member(context.services.stores.postgres, program, found, values, actor=context.caller.actor, act=act)
    return act.response


async def delete_member(context: RequestContext) -> Response:
    """Erase the personal data of a member, in every program of the client. Its accounts and their entries stay."""
    program = await program_of(context)
    found = await member_of(context, program, erased=True)

    async def show(erased: Member) -> Response:
        return json_response(erased.to_json())

    act = context.act(show)
    await erase_member(context.services.stores.postgres, found.member, actor=context.caller.actor, act=act)
    return act.response


async def get_export(context: RequestContext) -> Response:
    """Return everything there is about a member, in all programs of the client."""
    program = await program_of(context)
    found = await member_of(context, program, erased=True)
    postgres = context.services.stores.postgres
    async with (
        unavailable_translated(),
        postgres.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        return json_response(await export_person(connection, found.member))


def _shower(program: Program, status: int) -> Callable[[MemberWithBalance], Awaitable[Response]]:
    """Return what shows a member that was created or changed."""

    async def show(found: MemberWithBalance) -> Response:
        response = json_response(show_member(found, found.balance, program), status)
        if status == 201:
            response.headers["location"] = f"{PROGRAMS_PATH}/{program.id}/members/{found.member.id}"
        return response

    return show


OPERATIONS: Final = (
    Operation("GET", MEMBERS_PATH, get_members, Access.ANY_KEY, query=(*FOUND_BY, *PAGED)),
    Operation("POST", MEMBERS_PATH, post_member, Access.ANY_KEY, tries=True),
    Operation("GET", MEMBER_PATH, get_member, Access.ANY_KEY),
    Operation("PATCH", MEMBER_PATH, patch_member, Access.ANY_KEY, tries=True),
    Operation("GET", MEMBER_PATH + "/export", get_export),
    Operation("DELETE", MEMBER_PATH, delete_member, tries=True),
)
