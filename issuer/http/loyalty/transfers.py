"""…/programs/{program}/transfers: points of one member for another one."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import json_object, json_response
from issuer.http.idempotency import KeyedAct
from issuer.http.loyalty.points import short_text
from issuer.http.loyalty.refusals import refusal_problem
from issuer.http.loyalty.requests import PROGRAM_PATH, actor_of, program_of
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.amounts import parse_points, show_points
from issuer.loyalty.bounds import MAX_REASON
from issuer.loyalty.member import MemberNotFoundError
from issuer.loyalty.member_store import ProgramMember, find_member
from issuer.loyalty.operations import MoveKind, NewMove
from issuer.loyalty.outcome import Refusal, Transferred
from issuer.loyalty.program import Program
from issuer.loyalty.shown import show_balance
from issuer.storage.acts import UNKEPT

TRANSFERS_PATH: Final = PROGRAM_PATH + "/transfers"


async def post_transfer(context: RequestContext) -> Response:
    """Move points, with their expiry, from one member of the program to another one."""
    program = await program_of(context)
    values = await json_object(context.request, ("from", "to", "points", "reason"), exact=True)
    points = parse_points(values.get("points"), program.unit)
    reason = short_text(values, "reason", MAX_REASON)
    source, target = [await _member_field(context, program, values, name) for name in ("from", "to")]
    if source.account_id == target.account_id:
        raise invalid("from and to are the same member")
    move = NewMove(uuid4(), MoveKind.TRANSFER)

    async def show(done: Transferred) -> Response:
        shown = {
            "id": str(move.id),
            "points": show_points(points, program.unit),
            "from": {"member": str(source.member.id), **show_balance(done.source.state, done.source.program)},
            "to": {"member": str(target.member.id), **show_balance(done.target.state, done.target.program)},
        }
        return json_response(shown, 201)

    await context.end_slot()
    act = None if context.dry_run or context.idempotency.key is None else KeyedAct(context.idempotency, show)
    outcome = await context.services.loyalty.transfer(
        source.account_id, target.account_id, points, move=move, reason=reason,
        client_id=program.client_id, actor=actor_of(context), act=act or UNKEPT, dry_run=context.dry_run,
    )  # fmt: skip
    if isinstance(outcome, Refusal):
        raise refusal_problem(outcome, program.unit)
    return await show(outcome) if act is None else act.response


async def _member_field(context: RequestContext, program: Program, values: dict[str, Any], name: str) -> ProgramMember:
    """Return the member that a field names by id or ref. Raises MemberNotFoundError, also for one that is erased."""
    given = text_field(values, name)
    if given is None:
        raise invalid(f"{name} is missing")
    found = await find_member(context.services.stores.postgres, program, given)
    if found.member.erased_at is not None:
        raise MemberNotFoundError
    return found


OPERATIONS: Final = (Operation("POST", TRANSFERS_PATH, post_transfer, Access.REDEEM, tries=True),)
