"""Rate limits over all processes: token buckets in Redis, from which each process leases tokens ahead of need.

Tokens leave the bucket before they are spent, so a crash, a lost reply or a second process can only lose tokens, never
add any. A key or address with frequent requests is served from its lease without a round trip; the next lease is
requested when the current one is begun, by a command that is piggybacked on the next pipeline of the engine. A request
of a key with few requests, or with a limit so small that a few tokens in another process would matter, waits for a
token of its own.

A lease expires after a short TTL. Redis grants one only from the tokens above the refill expected during that TTL. So
in any time t at most burst + count × t / period requests are admitted over all processes, exactly as with one bucket
and without leases: tokens that are spent from leases within a window left the bucket at most one TTL before it, when
the bucket was at least that much below full. While Redis is unavailable every request is admitted: nothing can be
redeemed then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import structlog
from redis.exceptions import NoScriptError, RedisError

from issuer.rate_limit import RateLimit
from issuer.rate_limits.token_requests import TokenGrant, TokenRequest
from issuer.storage.redis_link import Value

log = structlog.get_logger()

SHARE_OF_BURST: Final = 0.2
"""The part of a bucket that is refilled during the TTL of a lease. Leases are granted from the rest only."""
MAX_TTL_S: Final = 0.5
LEASES_PER_TTL: Final = 3
"""A lease covers this fraction of its TTL: it is prefetched while the one before it is spent."""
MAX_IN_PIPELINE: Final = 512


@dataclass(frozen=True, slots=True)
class RateLimited:
    """A refusal: the kind of bucket that has no token left, its limit, and the time until it has one."""

    kind: str
    limit: RateLimit
    wait_s: float


class Admission(Enum):
    """ADMITTED: the tokens are spent. PENDING: Redis must be asked, and the callback gets the result."""

    ADMITTED = "admitted"
    PENDING = "pending"


AdmissionResult = Admission | RateLimited
Then = Callable[[AdmissionResult], None]


class _Waiter:
    """A request that waits for tokens of `missing` buckets."""

    __slots__ = ("missing", "refused", "then")

    def __init__(self, missing: int, then: Then) -> None:
        self.missing = missing
        self.refused: RateLimited | None = None
        self.then = then

    def settle(self, refused: RateLimited | None) -> bool:
        """Take the result of one bucket. True: it was the last one, and `then` was called."""
        self.missing -= 1
        self.refused = self.refused or refused
        if self.missing == 0:
            self.then(self.refused or Admission.ADMITTED)
        return self.missing == 0


class Bucket:
    """One token bucket in this process: the tokens that it has leased and not spent."""

    __slots__ = (
        "exhausted", "expires_at", "key", "kind", "leasing", "left", "limit", "low", "per_s", "prefetched",
        "prefetched_expires_at", "refused_until", "request", "spent", "spent_since", "ttl_s", "waiters",
    )  # fmt: skip

    def __init__(self, kind: str, key: str, limit: RateLimit) -> None:
        self.kind = kind
        self.key = key
        self.limit = limit
        self.ttl_s = min(SHARE_OF_BURST * limit.burst * limit.interval_s, MAX_TTL_S)
        self.left = 0
        self.expires_at = 0.0
        self.prefetched = 0
        self.prefetched_expires_at = 0.0
        # The next lease is requested, once, when this many tokens are left.
        self.low = -1
        self.refused_until = 0.0
        # The newest request, the requests that wait for it, and whether a lease is under way.
        self.request: TokenRequest | None = None
        self.waiters: list[_Waiter] = []
        self.leasing = False
        # Redis had no token left: a token that is prefetched now would only be missing in another process.
        self.exhausted = False
        self.spent = 0
        self.spent_since = 0.0
        self.per_s = 0.0

    def has_token(self, now: float) -> bool:
        """Return whether a token can be spent; begin the prefetched lease when the current one is used up."""
        if self.left > 0 and self.expires_at > now:
            return True
        self.left, self.expires_at = self.prefetched, self.prefetched_expires_at
        self.prefetched, self.low = 0, self.left or -1
        return self.left > 0 and self.expires_at > now

    def keep(self, tokens: int, expires_at: float, now: float) -> None:
        """Keep a lease. It replaces a prefetched one, whose tokens are lost."""
        if tokens <= 0 or expires_at <= now:
            return
        self.prefetched, self.prefetched_expires_at = tokens, expires_at
        self.has_token(now)

    def lease_size(self, now: float) -> int:
        """Return how many tokens the next lease should have; 0: one is there, or none is worth the round trip."""
        if self.prefetched or self.leasing or self.exhausted:
            return 0
        seconds = now - self.spent_since
        if seconds > 0:
            self.per_s = (self.per_s + self.spent / seconds) / 2
            self.spent, self.spent_since = 0, now
        return int(min(self.per_s, 1 / self.limit.interval_s) * self.ttl_s / LEASES_PER_TTL)


class CommandCarrier(Protocol):
    """What sends the requests to Redis: the engine."""

    @property
    def is_connected(self) -> bool: ...

    def wake(self) -> None: ...


class Leases:
    """The leases of one process. Its commands are piggybacked: see `issuer.engine.piggyback`."""

    def __init__(self, carrier: CommandCarrier, *, max_waiting: int) -> None:
        self._carrier = carrier
        self._max_waiting = max_waiting
        self._waiting = 0
        self.queue: deque[TokenRequest] = deque()
        self._sent: list[TokenRequest] = []
        self._now = asyncio.get_running_loop().time

    @property
    def is_connected(self) -> bool:
        """Whether Redis is available. If not, every request is admitted."""
        return self._carrier.is_connected

    def spend(self, buckets: Sequence[Bucket], then: Then) -> AdmissionResult:
        """Spend one token of each bucket. PENDING: `then` is called with ADMITTED or a refusal. Never raises."""
        now = self._now()
        for bucket in buckets:
            if bucket.left <= 0 or bucket.expires_at <= now:
                return self._spend_missing(buckets, then, now)
        # Only when every bucket has a token: a refusal by one limit must not cost a token of another.
        for bucket in buckets:
            bucket.left -= 1
            bucket.spent += 1
            if bucket.left <= bucket.low:
                self._prefetch(bucket, now)
        return Admission.ADMITTED

    def send(self, request: TokenRequest) -> None:
        """Send the request with the next pipeline. Without a connection `then` is called at once, with None."""
        if self._carrier.is_connected:
            self.queue.append(request)
            self._carrier.wake()
        else:
            request.then(request, None)

    def _prefetch(self, bucket: Bucket, now: float) -> None:
        # Before the request: it may be answered at once, and the lease that it brings sets a new mark.
        bucket.low = -1
        if size := bucket.lease_size(now):
            self._request(bucket, size)

    def _spend_missing(self, buckets: Sequence[Bucket], then: Then, now: float) -> AdmissionResult:
        """Spend one token of each bucket where at least one bucket has none in this process."""
        if not self._carrier.is_connected:
            return Admission.ADMITTED
        lacking = [bucket for bucket in buckets if not bucket.has_token(now)]
        # Refusals first, while nothing is spent. Redis gave the time until which each of them holds: no round trip.
        for bucket in lacking:
            if bucket.refused_until > now:
                return RateLimited(bucket.kind, bucket.limit, bucket.refused_until - now)
        if self._waiting >= self._max_waiting:
            return RateLimited(buckets[0].kind, buckets[0].limit, 1.0)
        waiter = _Waiter(len(lacking), then)
        for bucket in buckets:
            bucket.spent += 1
            if bucket not in lacking:
                bucket.left -= 1
                continue
            request = bucket.request
            # A request that is sent asks for a fixed number of tokens, so a new waiter cannot join it.
            if request is None or request.sent_at:
                request = self._request(bucket, bucket.lease_size(now))
            bucket.waiters.append(waiter)
            request.wanted += 1
        if not lacking:
            return Admission.ADMITTED
        self._waiting += 1
        return Admission.PENDING

    def _request(self, bucket: Bucket, tokens: int) -> TokenRequest:
        """Request a lease of `tokens`. Waiters that join before the request is sent add one token each."""

        def take(request: TokenRequest, grant: TokenGrant | None) -> None:
            self._take(bucket, waiters, request, grant)

        waiters: list[_Waiter] = []
        bucket.waiters = waiters
        lack_s = bucket.ttl_s if tokens else 0.0
        bucket.request = request = TokenRequest(bucket.key, bucket.limit, tokens, take, lack_s=lack_s)
        bucket.leasing = bucket.leasing or tokens > 0
        # Last: without a connection `take` is called before this returns.
        self.send(request)
        return request

    def _take(self, bucket: Bucket, waiters: list[_Waiter], request: TokenRequest, grant: TokenGrant | None) -> None:
        """Serve the waiters from a grant, in order of arrival, and keep the rest as a lease."""
        if request.lack_us:
            bucket.leasing = False
        if bucket.request is request:
            bucket.request = None
        # Without a grant Redis is unavailable, and every waiter is admitted.
        given = len(waiters)
        refused = None
        if grant is not None:
            now = self._now()
            given = grant.given
            # The waiters come first, the lease gets the rest. The TTL counts from the sending: Redis may have taken the
            # tokens that early, and a token that is spent later than its TTL could exceed the bound of a window.
            bucket.keep(given - len(waiters), request.sent_at + bucket.ttl_s, now)
            bucket.exhausted = grant.left == 0
            if bucket.exhausted:
                bucket.refused_until = now + grant.wait_s
                refused = RateLimited(bucket.kind, bucket.limit, grant.wait_s)
        for place, waiter in enumerate(waiters):
            self._waiting -= waiter.settle(None if place < given else refused)

    # The protocol PiggybackedCommands, called by the engine.

    def commands(self) -> list[Sequence[Value]]:
        """Return the commands for the next pipeline. The engine calls `settle` with their replies, or `fail`."""
        now = self._now()
        commands: list[Sequence[Value]] = []
        for _ in range(min(len(self.queue), MAX_IN_PIPELINE)):
            request = self.queue.popleft()
            request.sent_at = now
            self._sent.append(request)
            commands.append(request.command())
        return commands

    def settle(self, replies: Sequence[Any]) -> None:
        """Pass the replies to their requests. A command that Redis refused counts as Redis being unavailable."""
        sent, self._sent = self._sent, []
        refusal: RedisError | None = None
        for request, reply in zip(sent, replies, strict=True):
            if isinstance(reply, NoScriptError):
                # The engine loads the script; the request is sent again with the next pipeline.
                request.sent_at = 0.0
                self.queue.append(request)
            elif isinstance(reply, RedisError):
                refusal = reply
                request.then(request, None)
            else:
                request.then(request, TokenGrant(reply[1], reply[2], reply[3] / 1e6))
        if refusal is not None:
            log.warning("Redis refused to grant leases; requests are admitted without them", error=str(refusal))

    def fail(self) -> None:
        """Admit all waiters: Redis is unavailable. Tokens that it granted meanwhile are lost."""
        # Cleared before the callbacks: these may send new requests, which are then answered at once.
        requests = [*self._sent, *self.queue]
        self._sent.clear()
        self.queue.clear()
        for request in requests:
            request.then(request, None)
