"""What must be equal in two replies, and how a difference is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from tests.differential.case import Case
from tests.differential.wire_client import RawAnswer, Reply

_CONSUMPTION: Final = re.compile(rb'(?<="consumption_id":")[A-Za-z0-9_-]{32}(?=")')
_INSTANT: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_WAIT: Final = re.compile(rb"(?<=try again in )[0-9]+(?= s)")
_RATE_LIMIT_WAIT: Final = re.compile(rb"(?<=;t=)[0-9]+")
TIMED_STATUSES: Final = (403, 429)
"""Answers whose Retry-After is the time until a limit opens; all other ones have a constant."""


class Placeholders:
    """Stable placeholders for ids of one installation: where the id was answered for the first time."""

    def __init__(self) -> None:
        self._first: dict[bytes, bytes] = {}

    def replace(self, body: bytes, place: bytes) -> bytes:
        """The body of the answer at `place` with placeholders for ids, instants and times to wait."""
        body = _CONSUMPTION.sub(lambda found: self._first.setdefault(found[0], b"<id of %b>" % place), body)
        return _WAIT.sub(b"<seconds>", _INSTANT.sub(b"<instant>", body))


Comparable = tuple[int, bytes, tuple[tuple[bytes, bytes], ...], bytes]


def comparable(answer: RawAnswer, placeholders: Placeholders, place: bytes) -> Comparable:
    """Status, reason, headers and body, without what may differ: the date, ids, instants and what follows from them."""
    body = placeholders.replace(answer.body, place)
    headers = []
    for name, value in answer.headers:
        if name == b"date":
            continue
        if name == b"content-length" and answer.body and int(value) == len(answer.body):
            value = b"%d" % len(body)
        elif name == b"retry-after" and answer.status in TIMED_STATUSES:
            value = b"<seconds>"
        elif name == b"ratelimit":
            value = _RATE_LIMIT_WAIT.sub(b"<seconds>", value)
        headers.append((name, value))
    return answer.status, answer.reason, tuple(headers), body


@dataclass(frozen=True, slots=True)
class Difference:
    """One case that was answered differently."""

    case: Case
    fast: Reply
    asgi: Reply

    def __str__(self) -> str:
        sent = "\n".join(f"  {piece!r}" for piece in self.case.pieces)
        return (
            f"case {self.case.seed}:{self.case.index} ({self.case.title}), listener {self.case.listener}\n"
            f"sent:\n{sent}\nwith the fast path:\n{_shown(self.fast)}\nthrough ASGI:\n{_shown(self.asgi)}"
        )


def _shown(reply: Reply) -> str:
    lines = []
    for answer in reply.answers:
        head = b"\r\n".join(b"%b: %b" % header for header in answer.headers)
        lines.append(f"  {answer.status} {answer.reason.decode('latin-1')} {head!r} {answer.body!r}")
    lines.append("  connection closed" if reply.closed else "  connection kept")
    return "\n".join(lines)


class Comparison:
    """Compares the replies of two installations over a whole run."""

    def __init__(self) -> None:
        self._fast = Placeholders()
        self._asgi = Placeholders()

    def difference(self, case: Case, fast: Reply, asgi: Reply) -> Difference | None:
        """The difference between the replies to a case; None: they are equal."""
        if case.waits_for_continue:
            fast, asgi = _open_ended(fast), _open_ended(asgi)
        if fast.closed == asgi.closed and _all(case, fast, self._fast) == _all(case, asgi, self._asgi):
            return None
        return Difference(case, fast, asgi)


def _open_ended(reply: Reply) -> Reply:
    """Return a reply without whether its first refusal ends the connection, and without what comes behind it.

    A refusal of a request that waits for `100 Continue` ends the connection if it comes before the body does, which is
    a race: only where it comes later is what follows the body answered.
    """
    answers: list[RawAnswer] = []
    for answer in reply.answers:
        if answer.status >= 400:
            kept = tuple(header for header in answer.headers if header != (b"connection", b"close"))
            answers.append(replace(answer, headers=kept))
            break
        answers.append(answer)
    return replace(reply, answers=tuple(answers), closed=False)


def _all(case: Case, reply: Reply, placeholders: Placeholders) -> list[Comparable]:
    return [
        comparable(answer, placeholders, b"%d.%d" % (case.index, number)) for number, answer in enumerate(reply.answers)
    ]
