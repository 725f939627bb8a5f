"""What a redemption answers, ready to be sent."""

from __future__ import annotations

from typing import Final

import orjson

from issuer.contract.outcomes import HTTP, Outcome
from issuer.engine.calls import Answer
from issuer.http.problems.problem import invalid, outcome_problem
from issuer.http.wire import Wire, granted_head, limit_problem, prebuilt, to_wire

BAD_BATCH: Final = prebuilt(invalid("invalid batch_id format", "invalid_batch_id"))
BAD_CLIENT: Final = prebuilt(invalid("invalid client_id format", "invalid_client_id"))
BAD_CUSTOMER: Final = prebuilt(invalid("invalid customer_id format", "invalid_customer_id"))
REFUSALS: Final = {outcome: to_wire(outcome_problem(outcome)) for outcome in HTTP}


def answer_wire(answer: Answer) -> Wire:
    """Return what is sent for an answer of the engine."""
    outcome = answer.outcome
    if outcome is Outcome.GRANTED or outcome is Outcome.REPLAYED:
        body = orjson.dumps({"code": answer.code})
        return Wire(granted_head(len(body), outcome), body)
    if answer.retry_at_ms is not None:
        return to_wire(limit_problem(answer.retry_at_ms))
    return REFUSALS[outcome]
