"""The table refusal of a points operation → problem."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.problems.problem import ProblemError
from issuer.instants import show_instant
from issuer.loyalty.amounts import show_points
from issuer.loyalty.outcome import Refusal, RefusalCode

_REFUSALS: Final[dict[RefusalCode, tuple[int, str]]] = {
    RefusalCode.INSUFFICIENT_POINTS: (403, "not enough points"),
    RefusalCode.LIMIT_REACHED: (403, "a limit of the program is reached"),
    RefusalCode.BELOW_MINIMUM: (403, "fewer points than the program allows to spend at once"),
    RefusalCode.PROGRAM_PAUSED: (409, "the program is paused or has ended"),
    RefusalCode.ALREADY_REVERSED: (409, "already reversed"),
    RefusalCode.NOT_REVERSIBLE: (409, "the entry cannot be reversed"),
    RefusalCode.ENTRY_NOT_FOUND: (404, "no entry found"),
    RefusalCode.HOLD_NOT_FOUND: (404, "no hold found"),
    RefusalCode.HOLD_SETTLED: (409, "the hold was captured or released before"),
    RefusalCode.HOLD_EXPIRED: (410, "the hold has expired"),
    RefusalCode.HOLD_EXCEEDED: (409, "the hold has fewer points"),
    RefusalCode.HOLDS_OPEN: (409, "the account has open holds"),
    RefusalCode.ORDER_DIFFERS: (409, "the order is known with another amount or another member"),
    RefusalCode.ORDER_NOT_FOUND: (404, "no order found"),
    RefusalCode.NO_EARN_RATE: (409, "the terms of the program have no earn rate"),
    RefusalCode.OTHER_CURRENCY: (400, "the order is in another currency than the terms"),
    RefusalCode.REASON_NEEDED: (400, "a reason is needed"),
    RefusalCode.MOVE_SETTLED: (409, "the purchase or transfer is settled"),
    RefusalCode.ACCOUNT_NOT_FOUND: (404, "no account found"),
    RefusalCode.OTHER_PROGRAM: (409, "the accounts are of two programs"),
}


def refusal_problem(refusal: Refusal, unit: str) -> ProblemError:
    """Return the problem for a refusal, with the figures that explain it in the unit of the program."""
    status, error = _REFUSALS[refusal.code]
    members: dict[str, Any] = {}
    if refusal.code is RefusalCode.INSUFFICIENT_POINTS:
        figures = {"available": refusal.available, "required": refusal.required or 0, "debt": refusal.debt}
        members = {name: show_points(points, unit) for name, points in figures.items()}
    if refusal.retry_at is not None:
        members["retry_at"] = show_instant(refusal.retry_at)
    return ProblemError(status, error, str(refusal.code), members=members)
