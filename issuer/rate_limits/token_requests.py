"""Requests for tokens of the buckets in Redis, and what Redis grants."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from issuer.contract.scripts import LEASE_TOKENS
from issuer.rate_limit import RateLimit
from issuer.storage.redis_link import Value


class TokenGrant(NamedTuple):
    """What Redis granted: tokens, how many are left in the bucket, and the time until there is one more."""

    given: int
    left: int
    wait_s: float


class TokenRequest:
    """A request for tokens of one bucket. `then` is called with the grant; None: Redis is unavailable.

    `lack_s`: grant only from what is above the refill of this time. `debt_s`: take the tokens also from an empty
    bucket, down to a negative balance that is refilled in this time.
    """

    __slots__ = ("debt_us", "fills_us", "interval_us", "key", "lack_us", "sent_at", "then", "wanted")

    def __init__(
        self,
        key: str,
        limit: RateLimit,
        wanted: int,
        then: Callable[[TokenRequest, TokenGrant | None], None],
        *,
        lack_s: float = 0.0,
        debt_s: float = 0.0,
    ) -> None:
        self.key = key
        self.interval_us = limit.interval_s * 1e6
        self.fills_us = limit.burst * self.interval_us
        self.lack_us = int(lack_s * 1e6)
        self.debt_us = int(debt_s * 1e6)
        self.wanted = wanted
        self.then = then
        self.sent_at = 0.0

    def command(self) -> list[Value]:
        bucket = (repr(self.interval_us), repr(self.fills_us), self.lack_us, self.debt_us)
        return ["EVALSHA", LEASE_TOKENS.sha, 1, self.key, *bucket, self.wanted]
