"""What IssueCoupon answers, and how the Connect protocol represents a failed call.

connectrpc.com/docs/protocol, "Error codes": a failed unary call is answered with an HTTP status and a JSON object with
`code` and `message`, whatever the codec of the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import orjson
from connectrpc.code import Code

from issuer.contract.outcomes import HTTP, Outcome
from issuer.engine.calls import Answer
from issuer.http.problems.problem import ProblemError, outcome_problem
from issuer.http.rpc.coupon.coupon_pb2 import IssueCouponResponse
from issuer.http.wire import Head, Wire, make_head

STATUS: Final = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""The codes that this service uses, with their HTTP statuses."""

_CODE_OF_STATUS: Final = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    503: Code.UNAVAILABLE,
    507: Code.RESOURCE_EXHAUSTED,
}

_HEADERS: Final = ("retry-after", "www-authenticate", "ratelimit", "ratelimit-policy")
"""Headers of a problem that the answer to a failed call has as well."""

REFUSED: Final = {
    Outcome.SOLD_OUT: "sold out",
    Outcome.NOT_STARTED: "not started",
    Outcome.PAUSED: "paused",
    Outcome.ENDED: "ended",
}
"""A campaign's refusal is a successful call with this text as `error`."""
NOT_FOUND: Final = "not found"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call. `headers` have names in lower case."""

    code: Code
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, problem: ProblemError) -> Failure:
        """Return the failure that a problem stands for. A status without a code of its own is FAILED_PRECONDITION.

        ABORTED: the same call may succeed later.
        """
        code = _CODE_OF_STATUS.get(problem.status, Code.FAILED_PRECONDITION)
        if problem.code == "idempotency_key_in_use":
            code = Code.ABORTED
        kept = [(name.lower(), value) for name, value in problem.headers.items()]
        return cls(code, problem.error, tuple(header for header in kept if header[0] in _HEADERS))


@dataclass(frozen=True, slots=True)
class IssueResult:
    """The answer of a campaign: a code, or the reason why there is none."""

    code: str = ""
    error: str = ""
    replayed: bool = False

    def to_json(self) -> bytes:
        return orjson.dumps({"code": self.code, "error": self.error})

    def to_message(self) -> IssueCouponResponse:
        return IssueCouponResponse(code=self.code, error=self.error)


UNKNOWN: Final = IssueResult(error=NOT_FOUND)
CRASHED: Final = Failure(Code.INTERNAL, "internal error")
TIMED_OUT: Final = Failure(Code.DEADLINE_EXCEEDED, "Request timed out")
_NOT_READY: Final = Failure.of(outcome_problem(Outcome.NOT_READY))
_REFUSALS: Final = {outcome: IssueResult(error=error) for outcome, error in REFUSED.items()}
_FAILURES: Final = {
    # The process knows the campaign, so the worker is about to bring it to Redis.
    **{outcome: Failure.of(outcome_problem(outcome)) for outcome in HTTP if outcome not in REFUSED},
    Outcome.UNKNOWN_BATCH: _NOT_READY,
}


def issue_result_of(answer: Answer) -> IssueResult | Failure:
    """Return what a campaign answers when the engine has answered."""
    outcome = answer.outcome
    if outcome is Outcome.GRANTED or outcome is Outcome.REPLAYED:
        return IssueResult(answer.code, replayed=outcome is Outcome.REPLAYED)
    return _REFUSALS.get(outcome) or _FAILURES[outcome]


@lru_cache(maxsize=1_024)
def _coupon_head(length: int, json: bool, replayed: bool) -> Head:
    media_type = b"application/json" if json else b"application/proto"
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % length)]
    if replayed:
        headers.append((b"idempotency-replayed", b"true"))
    return make_head(200, headers)


def coupon_wire(coupon: IssueResult, *, json: bool) -> Wire:
    """Return a whole answer of a campaign in the codec of the call."""
    body = coupon.to_json() if json else coupon.to_message().SerializeToString()
    return Wire(_coupon_head(len(body), json, coupon.replayed), body)


@lru_cache(maxsize=64)
def failure_wire(failure: Failure) -> Wire:
    """Return the whole answer to a failed call."""
    body = orjson.dumps({"code": failure.code.value, "message": failure.message})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode(), value.encode()) for name, value in failure.headers]
    return Wire(make_head(STATUS[failure.code], headers), body)


UNKNOWN_WIRES: Final = (coupon_wire(UNKNOWN, json=False), coupon_wire(UNKNOWN, json=True))
"""Indexed by whether the codec is JSON, as the next one."""
_WIRES: Final = {
    **{o: (coupon_wire(c, json=False), coupon_wire(c, json=True)) for o, c in _REFUSALS.items()},
    **{o: (failure_wire(f), failure_wire(f)) for o, f in _FAILURES.items()},
}


def answer_wire(answer: Answer, json: bool) -> Wire:
    """Return the whole answer to a call when the engine has answered."""
    outcome = answer.outcome
    replayed = outcome is Outcome.REPLAYED
    if outcome is not Outcome.GRANTED and not replayed:
        return _WIRES[outcome][json]
    if json:
        body = orjson.dumps({"code": answer.code, "error": ""})
    else:
        body = IssueCouponResponse(code=answer.code).SerializeToString()
    return Wire(_coupon_head(len(body), json, replayed), body)
