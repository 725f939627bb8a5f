"""The security log: every request that is answered 401, 403 or 429 for who sends it, as a line of the process's log.

A line names reason, method, route, address and key, never a credential, a path or a code. Refusals that say something
about a code, a batch or an account (limit reached, not started, too few points) are answers, not security events.

What an attacker can make a process write is bounded. In each period of 10 s the first LINES_PER_ADDRESS refusals of an
address have a line each, MAX_LINES in all; the others are counted and summed up at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from issuer.access.api_keys import ApiKey
from issuer.http.edge.header_fields import Headers
from issuer.http.problems.problem import ProblemError

log = structlog.get_logger()

LOGGED: Final = frozenset({401, 403, 429})
ANSWERS: Final = frozenset({"insufficient_points", "limit_reached", "below_minimum"})
"""Codes of refusals with such a status that say something about an account, not about the caller."""
PERIOD_S: Final = 10.0
LINES_PER_ADDRESS: Final = 5
MAX_LINES: Final = 100
MAX_SUMMARIES: Final = 20
MAX_ADDRESSES: Final = 10_000
"""Addresses that are counted one by one in a period; further ones only in the sum."""


def is_logged(problem: ProblemError) -> bool:
    """Whether a refusal is a line of the security log."""
    return problem.status in LOGGED and problem.code not in ANSWERS


@dataclass(slots=True)
class _Counts:
    """The refusals of one address in the running period, and how many of them have no line of their own."""

    lines: int = 0
    more: int = 0


class SecurityLog:
    """The security log of one process. `address_of` returns what rate limits count for a peer and headers."""

    def __init__(self, address_of: Callable[[str | None, Headers], str]) -> None:
        self._address_of = address_of
        self._lines = 0
        self._counts: dict[str, _Counts] = {}
        self._uncounted = 0
        self._timer: asyncio.TimerHandle | None = None

    def refused(
        self, problem: ProblemError, method: str, route: str, peer: str | None, headers: Headers, key: ApiKey | None
    ) -> None:
        """Log a refusal of this status and code. `route`: the template, not the path; `key`: the valid key, if any."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.end_period)
        address = self._address_of(peer, headers)
        counts = self._counts.get(address)
        if counts is None:
            if len(self._counts) >= MAX_ADDRESSES:
                self._uncounted += 1
                return
            counts = self._counts[address] = _Counts()
        if counts.lines >= LINES_PER_ADDRESS or self._lines >= MAX_LINES:
            counts.more += 1
            return
        counts.lines += 1
        self._lines += 1
        log.warning(
            "request refused",
            category="security",
            status=problem.status,
            reason=problem.code,
            method=method,
            route=route,
            address=address,
            **_caller(key, headers),
        )

    def end_period(self) -> None:
        """Log what was only counted, the addresses with the most refusals first, and begin again."""
        if self._timer is not None:
            self._timer.cancel()
        rest = sorted(((c.more, address) for address, c in self._counts.items() if c.more), reverse=True)
        for count, address in rest[:MAX_SUMMARIES]:
            log.warning("more requests refused", category="security", address=address, count=count, period_s=PERIOD_S)
        others = sum(count for count, _ in rest[MAX_SUMMARIES:]) + self._uncounted
        if others:
            log.warning(
                "more requests refused, of many addresses", category="security", count=others, period_s=PERIOD_S
            )
        self._timer, self._lines, self._uncounted = None, 0, 0
        self._counts.clear()


def _caller(key: ApiKey | None, headers: Headers) -> dict[str, object]:
    if key is not None:
        return {"key_id": key.id, "key_name": key.name}
    return {"key_id": None, "sent_key": any(name == b"authorization" for name, _ in headers)}
