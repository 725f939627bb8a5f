"""What a redemption answers, ready to be sent. Answers that do not depend on the request are made once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Final

import orjson
from starlette.types import Message

from issuer.contract.outcomes import HTTP, Outcome
from issuer.engine.calls import Answer
from issuer.http.operations import MISSING_KEY, WRONG_SCOPE, ring_not_loaded
from issuer.http.problems.problem import MEDIA_TYPE, ProblemError, invalid, outcome_problem, status_problem
from issuer.instants import from_ms, show_instant


@dataclass(frozen=True, slots=True)
class Head:
    """The start of an answer: for ASGI, and as header lines for whoever writes it himself."""

    status: int
    start: Message
    lines: bytes


# Not frozen, for the same reason as Answer.
@dataclass(slots=True)
class Wire:
    """A whole answer."""

    head: Head
    body: bytes


def make_head(status: int, headers: list[tuple[bytes, bytes]]) -> Head:
    start = {"type": "http.response.start", "status": status, "headers": headers}
    return Head(status, start, b"".join(b"%b: %b\r\n" % header for header in headers))


def to_wire(problem: ProblemError) -> Wire:
    body = problem.body()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    return Wire(make_head(problem.status, headers), body)


UNPARSABLE: Final = to_wire(invalid("cannot parse json", "unparsable_json"))
BAD_BATCH: Final = to_wire(invalid("invalid batch_id format", "invalid_batch_id"))
BAD_CLIENT: Final = to_wire(invalid("invalid client_id format", "invalid_client_id"))
BAD_CUSTOMER: Final = to_wire(invalid("invalid customer_id format", "invalid_customer_id"))
BAD_KEY_MESSAGE: Final = "Idempotency-Key must be 1 to 255 printable ASCII characters, given once"
BAD_KEY: Final = to_wire(invalid(BAD_KEY_MESSAGE, "invalid_idempotency_key"))
TOO_LARGE: Final = to_wire(status_problem(413))
CRASHED: Final = to_wire(ProblemError(500, "internal error", "internal_error"))
UNAUTHORIZED: Final = to_wire(MISSING_KEY)
FORBIDDEN: Final = to_wire(WRONG_SCOPE)
NO_RING: Final = to_wire(ring_not_loaded())
REFUSALS: Final = {outcome: to_wire(outcome_problem(outcome)) for outcome in HTTP}

_MAX_LENGTHS: Final = 1_024
_granted: dict[int, Head] = {}
_replayed: dict[int, Head] = {}


def answer_wire(answer: Answer) -> Wire:
    """What is sent for an answer of the engine."""
    outcome = answer.outcome
    if outcome is Outcome.GRANTED or outcome is Outcome.REPLAYED:
        body = orjson.dumps({"code": answer.code})
        return Wire(granted_head(len(body), outcome), body)
    if answer.retry_at_ms is not None:
        return to_wire(limit_problem(answer.retry_at_ms))
    return REFUSALS[outcome]


def granted_head(length: int, outcome: Outcome) -> Head:
    """The head of a 200 with a JSON body of this length, for GRANTED or REPLAYED."""
    heads = _granted if outcome is Outcome.GRANTED else _replayed
    head = heads.get(length)
    if head is None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
        if outcome is Outcome.REPLAYED:
            headers.append((b"idempotency-replayed", b"true"))
        head = make_head(200, headers)
        if len(heads) < _MAX_LENGTHS:
            heads[length] = head
    return head


def limit_problem(retry_at_ms: int) -> ProblemError:
    """The refusal of a customer whose limit opens again at `retry_at_ms`."""
    problem = outcome_problem(Outcome.LIMIT_REACHED)
    retry_at = show_instant(from_ms(retry_at_ms))
    problem.detail = f"{problem.error}: the next redemption is possible at {retry_at}"
    problem.members["retry_at"] = retry_at
    problem.headers["Retry-After"] = str(max(1, math.ceil(retry_at_ms / 1000 - time.time())))
    return problem
