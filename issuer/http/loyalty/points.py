"""…/members/{member}/earn, spend and adjust: points that a member gets and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import flag_field, json_object
from issuer.http.loyalty.requests import MEMBER_PATH, account_of, carry_out
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.loyalty.amounts import check_currency, parse_change, parse_money, parse_points
from issuer.loyalty.bounds import MAX_ORDER_ID, MAX_REASON, MAX_SOURCE
from issuer.loyalty.operations import Adjust, Earn, OrderRef, Spend
from issuer.loyalty.program import Program
from issuer.names import text_problem, trimmed

_OF_ORDER: Final = ("amount", "currency", "order_id", "source")
DEFAULT_SOURCE: Final = "api"
"""The source of orders whose caller names none."""


async def post_earn(context: RequestContext) -> Response:
    """Add points, or what an order earns. The same order earns once, also with another Idempotency-Key."""
    account = await account_of(context)
    values = await json_object(context.request, ("points", "reason", *_OF_ORDER), exact=True)
    account_id, program = account.id, account.program
    reason = short_text(values, "reason", MAX_REASON)
    if values.get("points") is None:
        earn = Earn(order=_order(values, program), reason=reason)
    elif any(values.get(name) is not None for name in _OF_ORDER):
        raise invalid("give either points, or amount and order_id of an order")
    else:
        earn = Earn(parse_points(values["points"], program.unit), reason=reason)
    return await carry_out(context, program, account_id, earn, status=201)


async def post_spend(context: RequestContext) -> Response:
    """Take points, all or none."""
    account = await account_of(context)
    values = await json_object(context.request, ("points", "reason"), exact=True)
    account_id, unit = account.id, account.program.unit
    spend = Spend(parse_points(values.get("points"), unit), short_text(values, "reason", MAX_REASON))
    return await carry_out(context, account.program, account_id, spend, status=201)


async def post_adjust(context: RequestContext) -> Response:
    """Add points, or take them with a minus in front. It needs a reason."""
    account = await account_of(context)
    values = await json_object(context.request, ("points", "reason", "allow_debt"), exact=True)
    account_id, program = account.id, account.program
    points = parse_change(values.get("points"), program.unit)
    reason = short_text(values, "reason", MAX_REASON)
    if reason is None:
        raise ProblemError(400, "a reason is needed", "reason_needed")
    adjust = Adjust(points, reason, allow_debt=bool(flag_field(values, "allow_debt")))
    return await carry_out(context, program, account_id, adjust, status=201)


def _order(values: Mapping[str, Any], program: Program) -> OrderRef:
    order = order_ref(values)
    rate = program.terms.earn
    if rate is None:
        raise ProblemError(409, "the terms of the program have no earn rate", "no_earn_rate")
    check_currency(rate.currency if values.get("currency") is None else values["currency"], rate.currency)
    amount_minor = parse_money(values.get("amount"), rate.currency, "amount")
    return replace(order, amount_minor=amount_minor, currency=rate.currency)


def order_ref(values: Mapping[str, Any]) -> OrderRef:
    """Return the order that a request names. Raises ProblemError."""
    order_id = short_text(values, "order_id", MAX_ORDER_ID)
    if order_id is None:
        raise invalid("order_id is required")
    return OrderRef(short_text(values, "source", MAX_SOURCE) or DEFAULT_SOURCE, order_id)


def short_text(values: Mapping[str, Any], name: str, most: int) -> str | None:
    """Return a text without outer white space; None: it is null or absent. Raises ProblemError."""
    value = text_field(values, name)
    if value is None:
        return None
    text = trimmed(value)
    problem = text_problem(text)
    if problem is not None:
        raise invalid(problem.replace("name", name, 1))
    if len(text) > most:
        raise invalid(f"{name} must have at most {most} characters")
    return text


OPERATIONS: Final = (
    Operation("POST", MEMBER_PATH + "/earn", post_earn, Access.REDEEM, tries=True, gathered=True, takes_slot=False),
    Operation("POST", MEMBER_PATH + "/spend", post_spend, Access.REDEEM, tries=True, gathered=True, takes_slot=False),
    Operation("POST", MEMBER_PATH + "/adjust", post_adjust, tries=True),
)
