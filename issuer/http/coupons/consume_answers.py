"""What a use of a coupon answers, ready to be sent."""

from __future__ import annotations

from typing import Any, Final

import orjson

from issuer.contract.outcomes import COUPON_HTTP, Outcome
from issuer.coupons.uses import use_id
from issuer.engine.calls import Answer, LookAnswer, UseAnswer
from issuer.http.limiting.failed_lookups import NOT_VALID
from issuer.http.problems.problem import outcome_problem
from issuer.http.wire import Wire, granted_head, limit_problem, to_wire
from issuer.instants import from_ms, show_instant

HIDDEN: Final = frozenset({Outcome.UNKNOWN_BATCH, Outcome.ENDED, Outcome.PAUSED, Outcome.NOT_STARTED})
"""Outcomes with one answer for a public key, each a failed lookup of it. For other keys only the first one is."""
_NOT_VALID: Final = to_wire(NOT_VALID)
_REFUSALS: Final = {outcome: to_wire(outcome_problem(outcome, COUPON_HTTP)) for outcome in COUPON_HTTP}
COUPON_NOT_READY: Final = _REFUSALS[Outcome.NOT_READY]


def is_failed_lookup(outcome: Outcome, *, public: bool) -> bool:
    """Whether the outcome counts as a failed lookup, so that codes cannot be enumerated."""
    return outcome in HIDDEN if public else outcome is Outcome.UNKNOWN_BATCH


def use_wire(answer: Answer, *, public: bool = False) -> Wire:
    """Return what is sent for an answer of the engine to a use."""
    outcome = answer.outcome
    if public and outcome in HIDDEN:
        return _NOT_VALID
    if isinstance(answer, UseAnswer):
        uses = answer.uses
        assert uses is not None
        # The terms are a JSON object with at least one member, as Postgres stores it.
        body = b'{"consumed":true,"consumption_id":"%b",%b' % (use_id(uses, answer.number), uses.terms[1:])
        return Wire(granted_head(len(body), outcome), body)
    if answer.retry_at_ms is not None:
        return to_wire(limit_problem(answer.retry_at_ms))
    return _REFUSALS[outcome]


def look_answer(answer: Answer, *, public: bool = False) -> dict[str, Any]:
    """Return the answer to a look at a coupon. Raises ProblemError for what is a 503."""
    if isinstance(answer, LookAnswer):
        terms = orjson.loads(answer.terms)
        return {"valid": True, "reason": None, "reason_code": None, "remaining": answer.remaining, **terms}
    if public and answer.outcome in HIDDEN:
        return {"valid": False, "reason": NOT_VALID.error, "reason_code": NOT_VALID.code}
    refusal = COUPON_HTTP[answer.outcome]
    if refusal.status == 503:
        raise outcome_problem(answer.outcome, COUPON_HTTP)
    shown: dict[str, Any] = {"valid": False, "reason": refusal.error, "reason_code": refusal.code}
    if answer.retry_at_ms is not None:
        shown["retry_at"] = show_instant(from_ms(answer.retry_at_ms))
    return shown
