"""What a redemption answers, ready to be sent."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from uuid import UUID

import orjson

from issuer.contract.outcomes import HTTP, Outcome
from issuer.engine.calls import Answer, AttributedAnswer
from issuer.http.problems.problem import outcome_problem
from issuer.http.wire import Wire, granted_head, limit_problem, to_wire
from issuer.ids import redemption_id
from issuer.instants import from_ms, show_instant

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
    return refusal_wire(answer)


def refusal_wire(answer: Answer) -> Wire:
    """Return what is sent for an answer without a code."""
    if answer.retry_at_ms is not None:
        return to_wire(limit_problem(answer.retry_at_ms))
    return REFUSALS[answer.outcome]


def redemption_wire(answer: Answer, batch_id: str, installation: UUID) -> Wire:
    """Return the redemption that a new or a replayed answer is about: 201 or 200."""
    redemption: dict[str, object] = {
        "redemption_id": redemption_id(batch_id, answer.code, installation),
        "code": answer.code,
        "batch_id": batch_id,
        "redeemed_at": _shown(answer.at_ms),
    }
    if isinstance(answer, AttributedAnswer):
        redemption["attributes"] = orjson.Fragment(answer.attributes)
    body = orjson.dumps(redemption)
    return Wire(granted_head(len(body), answer.outcome, created=True), body)


@lru_cache(maxsize=1024)
def _shown(at_ms: int) -> str:
    """Return the time of a script call, which many of its requests have."""
    return show_instant(from_ms(at_ms))
