"""What a redemption answers, ready to be sent."""

from __future__ import annotations

from typing import Final

import orjson

from issuer.contract.outcomes import HTTP, Outcome
from issuer.engine.calls import Answer, AttributedAnswer
from issuer.http.problems.problem import outcome_problem
from issuer.http.wire import Wire, granted_head, limit_problem, to_wire

REFUSALS: Final = {outcome: to_wire(outcome_problem(outcome)) for outcome in HTTP}


def answer_wire(answer: Answer) -> Wire:
    """Return what is sent for an answer of the engine."""
    outcome = answer.outcome
    if outcome is Outcome.GRANTED or outcome is Outcome.REPLAYED:
        if isinstance(answer, AttributedAnswer):
            body = orjson.dumps({"code": answer.code, "attributes": orjson.Fragment(answer.attributes)})
        else:
            body = orjson.dumps({"code": answer.code})
        return Wire(granted_head(len(body), outcome), body)
    if answer.retry_at_ms is not None:
        return to_wire(limit_problem(answer.retry_at_ms))
    return REFUSALS[outcome]
