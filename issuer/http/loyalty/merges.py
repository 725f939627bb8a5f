"""…/members/{member}/merge: two members who are one person become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from issuer.http.fields import json_object, json_response
from issuer.http.loyalty.points import short_text
from issuer.http.loyalty.refusals import refusal_problem
from issuer.http.loyalty.requests import MEMBER_PATH, actor_of, member_of, program_of
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.bounds import MAX_REASON
from issuer.loyalty.member_store import find_member_of_client
from issuer.loyalty.merging import MergedAccount, MergeRefusedError, merge_member
from issuer.loyalty.shown import show_balance

MERGE_PATH: Final = MEMBER_PATH + "/merge"


async def post_merge(context: RequestContext) -> Response:
    """Merge the member of the path into another one of the client, in all programs. It then resolves to that one."""
    program = await program_of(context)
    values = await json_object(context.request, ("into", "reason"))
    into, reason = text_field(values, "into"), short_text(values, "reason", MAX_REASON)
    if into is None:
        raise invalid("into is missing")
    postgres = context.services.stores.postgres
    source = (await member_of(context, program)).member
    target = await find_member_of_client(postgres, program.client_id, into)

    async def show(merged: Sequence[MergedAccount]) -> Response:
        moved = {one.program_id: one for one in merged}.get(program.id)
        shown = {
            "id": str(target.id),
            "merged": str(source.id),
            "moves": [{"id": str(one.move_id), "program_id": str(one.program_id)} for one in merged],
            "balance": None if moved is None else show_balance(moved.done.target.state, moved.done.target.program),
        }
        return json_response(shown)

    act = context.act(show)
    try:
        await merge_member(
            postgres, source, target, who=actor_of(context), actor=context.caller.actor, reason=reason, act=act
        )
    except MergeRefusedError as error:
        raise refusal_problem(error.refusal, program.unit) from error
    return act.response


OPERATIONS: Final = (Operation("POST", MERGE_PATH, post_merge, tries=True),)
