"""The forms of an account at a till: earn, spend, take a reward, undo.

Each page carries a key of its own, so a form that is sent twice is carried out once, and a repeat of the browser's
shows the account as it is now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.idempotency import AlreadyAnsweredError, Idempotency, KeyedAct, request_digest
from issuer.http.loyalty.till.counter import ACCOUNT, account_of, show_account
from issuer.http.loyalty.till.till_visit import TillVisit, staffed
from issuer.http.loyalty.till.typed_amounts import TypedAmountError, read_amount
from issuer.http.operations import Handler, Operation
from issuer.http.problems.problem import ProblemError
from issuer.ids import parse_uuid
from issuer.loyalty.operations import Earn, OrderRef, Spend, Undo
from issuer.loyalty.operations import Operation as PointsOperation
from issuer.loyalty.outcome import Applied, Refusal
from issuer.loyalty.till import TillAccount

SOURCE: Final = "till"
"""The source of the orders that a till's amounts are."""
REASON: Final = "at the till"


class TillRefusedError(Exception):
    """The form is refused. `error`: the message, `at`: the form; both by their names in the template."""

    def __init__(self, error: str, at: str) -> None:
        super().__init__(error)
        self.error, self.at = error, at


Make = Callable[[TillVisit, TillAccount, Mapping[str, str]], PointsOperation]


def _earn(till: TillVisit, account: TillAccount, form: Mapping[str, str]) -> PointsOperation:
    """Return the earn of a purchase of this amount; without an earn rate, of this number of points."""
    rate = till.program.terms.earn
    if rate is None:
        points = _amount(form, "amount", till.program.unit)
        check_most(till, points, "amount")
        return Earn(points, reason=REASON)
    amount = _amount(form, "amount", rate.currency)
    check_most(till, rate.earned_by(amount), "amount")
    # The key of the form is the number of the order: it earns once, however late it is sent again.
    return Earn(order=OrderRef(SOURCE, form["once"], amount, rate.currency), reason=REASON)


def _spend(till: TillVisit, account: TillAccount, form: Mapping[str, str]) -> PointsOperation:
    points = _amount(form, "points", till.program.unit)
    check_most(till, points, "points")
    return Spend(points, reason=REASON)


def _undo(till: TillVisit, account: TillAccount, form: Mapping[str, str]) -> PointsOperation:
    seq = form.get("seq", "")
    if not any(entry.can_undo and str(entry.seq) == seq for entry in account.entries):
        raise TillRefusedError("too_late", "undo")
    return Undo(int(seq), reason=REASON)


def _amount(form: Mapping[str, str], name: str, unit: str) -> int:
    try:
        return read_amount(form.get(name, ""), unit)
    except TypedAmountError as error:
        raise TillRefusedError("amount", name) from error


def check_most(till: TillVisit, points: int, field: str) -> None:
    """Raise TillRefusedError for more points than the member of staff may book at once."""
    most = till.on_duty.max_points
    if most is not None and points > most:
        raise TillRefusedError("too_much", field)


def _form(name: str, make: Make, field: str) -> Handler:
    """Return the handler of a form that carries out one operation."""

    @staffed
    async def answer(till: TillVisit) -> Response:
        form = await till.visit.form()
        account = await account_of(till)
        try:
            await _carry_out(till, account, name, form, make, field)
        except TillRefusedError as refused:
            return await show_account(till, account, error=refused.error, at=refused.at, status=409)
        return till.redirect(f"/accounts/{account.id}", name)

    return answer


async def _carry_out(
    till: TillVisit, account: TillAccount, name: str, form: Mapping[str, str], make: Make, field: str
) -> None:
    """Carry out an operation once. Raises TillRefusedError."""
    services, once = till.context.services, form.get("once", "")
    if parse_uuid(once) is None:
        raise TillRefusedError("failed", field)
    idempotency = Idempotency(services.stores.postgres, till.program.client_id, f"till {name}", once)
    idempotency.digest = request_digest(str(account.id).encode(), *(form.get(key, "").encode() for key in _SIGNED))
    try:
        # Before the checks: an entry that was undone cannot be undone again, but the repeat of the form is no error.
        await idempotency.check()
        operation = make(till, account, form)
        act = KeyedAct[Applied](idempotency, _done)
        actor = replace(till.actor, key_hash=hashlib.sha256(once.encode()).digest())
        outcome = await services.loyalty.execute(
            account.id, operation, client_id=till.program.client_id, actor=actor, act=act
        )
    except AlreadyAnsweredError:
        return
    except ProblemError as problem:
        if problem.code != "idempotency_key_reused":
            raise
        # An old page of the browser's history, with another amount.
        raise TillRefusedError("failed", field) from problem
    if isinstance(outcome, Refusal):
        raise TillRefusedError(str(outcome.code), field)


_SIGNED: Final = ("amount", "points", "seq")


async def _done(_: Applied) -> Response:
    """Return what is kept for the key: that it was done is all that a repeat asks."""
    return Response(status_code=204)


def _operation(name: str, handler: Handler) -> Operation:
    return Operation("POST", f"{ACCOUNT}/{name}", handler, Access.PUBLIC, page=True)


OPERATIONS = (
    _operation("earn", _form("earn", _earn, "amount")),
    _operation("spend", _form("spend", _spend, "points")),
    _operation("undo", _form("undo", _undo, "undo")),
)
