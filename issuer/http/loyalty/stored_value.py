"""…/cards/{number}/top-up, spend and refund: the value of a gift card, and points by a card alone.

Amounts are in the unit of the program: of a currency a decimal string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import json_object
from issuer.http.loyalty.cards import CARD_PATH, account_of, card_of
from issuer.http.loyalty.points import short_text
from issuer.http.loyalty.requests import carry_out, program_of
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.loyalty.amounts import parse_points
from issuer.loyalty.bounds import MAX_REASON
from issuer.loyalty.operations import Earn, Spend, Undo
from issuer.loyalty.program import Program


async def post_top_up(context: RequestContext) -> Response:
    """Add an amount to the account of a card."""
    program, account_id = await _account(context)
    values = await json_object(context.request, ("amount", "reason"), exact=True)
    operation = Earn(_amount(values, program), reason=short_text(values, "reason", MAX_REASON))
    return await carry_out(context, program, account_id, operation, status=201)


async def post_spend(context: RequestContext) -> Response:
    """Take an amount from the account of a card, all of it or nothing."""
    program, account_id = await _account(context)
    values = await json_object(context.request, ("amount", "reason"), exact=True)
    operation = Spend(_amount(values, program), reason=short_text(values, "reason", MAX_REASON))
    return await carry_out(context, program, account_id, operation, status=201)


async def post_refund(context: RequestContext) -> Response:
    """Undo what an entry has spent: all of it, or an amount of it."""
    program, account_id = await _account(context)
    values = await json_object(context.request, ("entry", "amount", "reason"), exact=True)
    points = None if values.get("amount") is None else _amount(values, program)
    operation = Undo(_entry(values, account_id), points, reason=short_text(values, "reason", MAX_REASON))
    return await carry_out(context, program, account_id, operation, status=201)


async def _account(context: RequestContext) -> tuple[Program, int]:
    program = await program_of(context)
    return program, account_of(await card_of(context, program))


def _amount(values: Mapping[str, Any], program: Program) -> int:
    return parse_points(values.get("amount"), program.unit, "amount")


def _entry(values: Mapping[str, Any], account_id: int) -> int:
    """Return the seq of the entry that the request names by its id. One of another account is not found."""
    given = text_field(values, "entry")
    if given is None:
        raise invalid("entry is required: the id of the entry that has spent")
    account, _, seq = given.partition("-")
    if account != str(account_id) or not (seq.isascii() and seq.isdigit() and len(seq) < 19):
        raise ProblemError(404, "no entry found", "entry_not_found")
    return int(seq)


OPERATIONS: Final = (
    Operation("POST", CARD_PATH + "/top-up", post_top_up, Access.REDEEM, tries=True),
    Operation("POST", CARD_PATH + "/spend", post_spend, Access.REDEEM, tries=True),
    Operation("POST", CARD_PATH + "/refund", post_refund, Access.REDEEM, tries=True),
)
