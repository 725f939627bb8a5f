"""Whole HTTP answers as bytes, and those that all products share. Answers that depend on no request are built once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from issuer.contract.outcomes import Outcome
from issuer.http.problems.problem import MEDIA_TYPE, ProblemError, outcome_problem
from issuer.instants import from_ms, show_instant

EVERY_ANSWER: Final = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
"""Headers of every answer of the server, beside the date: answers have codes and keys in them, so no cache keeps them
and no browser takes them for another type. The server adds them to its own lines, which it builds once per second. An
answer on the ASGI path that has a cache-control of its own, such as a file that a page loads, replaces the first."""


@dataclass(frozen=True, slots=True)
class Head:
    """The start of an answer: status and headers, as ASGI takes them, and `lines`: the same headers on the wire."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    lines: bytes


# Not frozen: creating a frozen instance takes three times as long, and there is one per request.
@dataclass(slots=True)
class Wire:
    """A whole answer. `body` has the length that `head` announces."""

    head: Head
    body: bytes


def make_head(status: int, headers: Sequence[tuple[bytes, bytes]]) -> Head:
    return Head(status, headers, b"".join(b"%b: %b\r\n" % header for header in headers))


def to_wire(problem: ProblemError) -> Wire:
    """Return the answer that shows a problem."""
    body = problem.body()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    return Wire(make_head(problem.status, headers), body)


_prebuilt: dict[ProblemError, Wire] = {}


def prebuilt(problem: ProblemError) -> ProblemError:
    """Build the answer of a problem that is the same for every request; `problem_wire` returns it from then on."""
    _prebuilt[problem] = to_wire(problem)
    return problem


def problem_wire(problem: ProblemError) -> Wire:
    """Return the answer that shows a problem, prebuilt or not."""
    return _prebuilt.get(problem) or to_wire(problem)


CRASHED: Final = to_wire(ProblemError(500, "internal error", "internal_error"))

_MAX_LENGTHS: Final = 1_024
_granted: dict[int, Head] = {}
_created: dict[int, Head] = {}
_replayed: dict[int, Head] = {}


def granted_head(length: int, outcome: Outcome, *, created: bool = False) -> Head:
    """Return the head of an answer with a JSON body of this length: 200, or with `created` 201, for GRANTED, and 200
    for REPLAYED."""
    heads = _replayed if outcome is Outcome.REPLAYED else _created if created else _granted
    head = heads.get(length)
    if head is None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
        if outcome is Outcome.REPLAYED:
            headers.append((b"idempotency-replayed", b"true"))
        head = make_head(201 if heads is _created else 200, headers)
        if len(heads) < _MAX_LENGTHS:
            heads[length] = head
    return head


def limit_problem(retry_at_ms: int) -> ProblemError:
    """Return the refusal of a customer whose limit allows the next redemption at `retry_at_ms`."""
    problem = outcome_problem(Outcome.LIMIT_REACHED)
    retry_at = show_instant(from_ms(retry_at_ms))
    problem.detail = f"{problem.error}: the next redemption is possible at {retry_at}"
    problem.members["retry_at"] = retry_at
    problem.headers["Retry-After"] = str(max(1, math.ceil(retry_at_ms / 1000 - time.time())))
    return problem
