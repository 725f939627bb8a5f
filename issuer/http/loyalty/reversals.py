"""…/refunds and …/members/{member}/entries/{entry}/reverse: what becomes of points when a sale is cancelled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import json_object
from issuer.http.loyalty.points import order_ref, short_text
from issuer.http.loyalty.requests import MEMBER_PATH, PROGRAM_PATH, carry_out, member_of, program_of
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.loyalty.amounts import check_currency, parse_money, parse_points, show_points
from issuer.loyalty.bounds import MAX_POINTS, MAX_REASON
from issuer.loyalty.history import find_entry
from issuer.loyalty.operations import OrderRef, TakeBack, Undo
from issuer.loyalty.orders import find_order
from issuer.loyalty.program import Program

REVERSE_PATH: Final = MEMBER_PATH + "/entries/{entry}/reverse"
REFUNDS_PATH: Final = PROGRAM_PATH + "/refunds"
_ENTRY: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)
_NO_ENTRY: Final = "no entry found"


async def post_refund(context: RequestContext) -> Response:
    """Take back what a refund of an order costs, of whatever member it was. Refunds are cumulative."""
    program = await program_of(context)
    values = await json_object(
        context.request, ("order_id", "source", "amount_refunded", "currency", "reason"), exact=True
    )
    return await _refund(context, program, order_ref(values), values)


async def post_reverse(context: RequestContext) -> Response:
    """Reverse an entry of a member: a refund of its order, or points of a spend, in part or whole."""
    program = await program_of(context)
    names = ("amount_refunded", "currency", "points", "reason")
    values = await json_object(context.request, names, exact=True) if await context.request.body() else {}
    found = await member_of(context, program)
    account_id, seq = _entry(context)
    if values.get("amount_refunded") is not None:
        if values.get("points") is not None:
            raise invalid("give amount_refunded for the earn of an order, or points for a spend")
        entry = await find_entry(context.services.stores.postgres, account_id, seq)
        if entry is None or account_id != found.account_id:
            raise ProblemError(404, _NO_ENTRY, "entry_not_found")
        if entry.order is None:
            raise ProblemError(409, "the entry is not of an order", "not_reversible")
        return await _refund(context, program, OrderRef(*entry.order), values)
    if account_id != found.account_id:
        raise ProblemError(404, _NO_ENTRY, "entry_not_found")
    points = None if values.get("points") is None else parse_points(values["points"], program.unit)
    undo = Undo(seq, points, short_text(values, "reason", MAX_REASON))
    return await carry_out(context, program, account_id, undo, status=201)


async def _refund(context: RequestContext, program: Program, order: OrderRef, values: Mapping[str, Any]) -> Response:
    known = await find_order(context.services.stores.postgres, program, order)
    amount = None
    if values.get("amount_refunded") is not None:
        if values.get("currency") is not None:
            check_currency(values["currency"], known.currency)
        amount = parse_money(values["amount_refunded"], known.currency, "amount_refunded")
        if amount > known.left_minor > 0:
            left = show_points(known.left_minor, known.currency)
            raise ProblemError(
                409, "the refund is above what is left of the order", "refund_above_order", detail=f"{left} is left"
            )
    take_back = TakeBack(order, amount, short_text(values, "reason", MAX_REASON))
    return await carry_out(context, program, known.account_id, take_back, status=201)


def _entry(context: RequestContext) -> tuple[int, int]:
    match = _ENTRY.fullmatch(context.request.path_params["entry"])
    if match is None or int(match[2]) > MAX_POINTS:
        raise ProblemError(404, _NO_ENTRY, "entry_not_found")
    return int(match[1]), int(match[2])


OPERATIONS: Final = (
    Operation("POST", REFUNDS_PATH, post_refund, Access.REDEEM, tries=True),
    Operation("POST", REVERSE_PATH, post_reverse, Access.REDEEM, tries=True),
)
