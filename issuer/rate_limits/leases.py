"""Rate limits over all processes: token buckets in Redis, of which each process leases tokens ahead of need.

What is spent was taken out of the bucket before: no token is ever made here, whatever fails. Requests of somebody who
comes often are paid from a lease at once; the next lease is asked for when this one is begun, by a command that
travels with the next pipeline of the engine. Who comes seldom, or has a limit so small that a few tokens in the wrong
process would matter, waits for a token of his own.

A lease is worth something for a short time only, its life, and is given only out of what the bucket would hold if it
were smaller by what flows into it in that time. So in any time t no more than burst + count × t / period requests are
let in, over all processes, exactly as if there was one bucket and no lease: what is spent from leases in the window was
taken out at most a life before it, when the bucket lacked as much. While Redis is away everybody is let in: nothing can
be redeemed then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

import structlog
from redis.exceptions import NoScriptError, RedisError

from issuer.contract.scripts import LEASE_TOKENS
from issuer.rate_limit import RateLimit
from issuer.storage.redis_link import Value

log = structlog.get_logger()

SHARE_OF_BURST: Final = 0.2
"""The part of a bucket that flows in while a lease lives, and that it lacks for who is paid from leases."""
LONGEST_LIFE_S: Final = 0.5
LEASES_OF_LIFE: Final = 3
"""A lease is as large as is spent in this part of its life: it waits while the one before it is spent."""
MAX_IN_PIPELINE: Final = 512


class TokenGrant(NamedTuple):
    """What Redis gave: tokens, how many are left in the bucket, and the time until there is one more."""

    given: int
    left: int
    wait_s: float


class TokenRequest:
    """Tokens of one bucket, wanted with the next pipeline. `then` gets the grant, or None: Redis is away.

    `lack_s`: the bucket lacks at least what flows in in this time. `debt_s`: the tokens are taken, given or not, until
    the bucket owes what flows in in this time.
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


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The kind of bucket that has no token left, its limit, and when it will have one."""

    kind: str
    limit: RateLimit
    wait_s: float


class Admission(Enum):
    """FREE: let in. WAITS: not known yet, who asked will be told."""

    FREE = "free"
    WAITS = "waits"


AdmissionResult = Admission | RateLimited
Then = Callable[[AdmissionResult], None]


class _Waiter:
    """One request that waits for tokens of `missing` buckets."""

    __slots__ = ("missing", "refused", "then")

    def __init__(self, missing: int, then: Then) -> None:
        self.missing = missing
        self.refused: RateLimited | None = None
        self.then = then

    def hear(self, refused: RateLimited | None) -> bool:
        """What one bucket says; True when it was the last one."""
        self.missing -= 1
        self.refused = self.refused or refused
        if self.missing == 0:
            self.then(self.refused or Admission.FREE)
        return self.missing == 0


class Bucket:
    """One token bucket as this process sees it: what it has leased and not spent."""

    __slots__ = (
        "ask", "expires_at", "key", "kind", "leasing", "left", "life_s", "limit", "low", "per_s", "refused_until",
        "scarce", "spare", "spare_expires_at", "spent", "spent_since", "waiters",
    )  # fmt: skip

    def __init__(self, kind: str, key: str, limit: RateLimit) -> None:
        self.kind = kind
        self.key = key
        self.limit = limit
        self.life_s = min(SHARE_OF_BURST * limit.burst * limit.interval_s, LONGEST_LIFE_S)
        self.left = 0
        self.expires_at = 0.0
        self.spare = 0
        self.spare_expires_at = 0.0
        # With no more than this left a spare lease is asked for, once.
        self.low = -1
        self.refused_until = 0.0
        # The newest ask, who waits for it, and whether a lease was asked for that is not there yet.
        self.ask: TokenRequest | None = None
        self.waiters: list[_Waiter] = []
        self.leasing = False
        # Redis had none left: what is leased ahead now would only be missing elsewhere.
        self.scarce = False
        self.spent = 0
        self.spent_since = 0.0
        self.per_s = 0.0

    def has_token(self, now: float) -> bool:
        if self.left > 0 and self.expires_at > now:
            return True
        self.left, self.expires_at = self.spare, self.spare_expires_at
        self.spare, self.low = 0, self.left or -1
        return self.left > 0 and self.expires_at > now

    def keep(self, tokens: int, expires_at: float, now: float) -> None:
        """Takes a lease in. A token that has no place is lost."""
        if tokens <= 0 or expires_at <= now:
            return
        self.spare, self.spare_expires_at = tokens, expires_at
        self.has_token(now)

    def ahead(self, now: float) -> int:
        """How many tokens the next lease should have; 0: there is one, or none is worth while."""
        if self.spare or self.leasing or self.scarce:
            return 0
        seconds = now - self.spent_since
        if seconds > 0:
            self.per_s = (self.per_s + self.spent / seconds) / 2
            self.spent, self.spent_since = 0, now
        return int(min(self.per_s, 1 / self.limit.interval_s) * self.life_s / LEASES_OF_LIFE)


class CommandCarrier(Protocol):
    """What takes the asks to Redis: the engine."""

    @property
    def is_connected(self) -> bool: ...

    def wake(self) -> None: ...


class Leases:
    """All buckets' tokens of one process. A rider of the engine: see `issuer.engine.engine.Rider`."""

    def __init__(self, carrier: CommandCarrier, *, most_waiting: int) -> None:
        self._carrier = carrier
        self._most_waiting = most_waiting
        self._waiting = 0
        self._asks: deque[TokenRequest] = deque()
        self._sent: list[TokenRequest] = []
        self._now = asyncio.get_running_loop().time

    @property
    def is_connected(self) -> bool:
        """Whether Redis can be asked. If not everybody is let in."""
        return self._carrier.is_connected

    def spend(self, buckets: Sequence[Bucket], then: Then) -> AdmissionResult:
        """One token of each bucket. FREE: paid. WAITS: `then` is told, FREE or a refusal. Never raises."""
        now = self._now()
        for bucket in buckets:
            if bucket.left <= 0 or bucket.expires_at <= now:
                return self._look(buckets, then, now)
        for bucket in buckets:
            bucket.left -= 1
            bucket.spent += 1
            if bucket.left <= bucket.low:
                self._ask_ahead(bucket, now)
        return Admission.FREE

    def ask(self, ask: TokenRequest) -> None:
        """Sends the ask with the next pipeline. Without a connection it is answered at once: with None."""
        if self._carrier.is_connected:
            self._asks.append(ask)
            self._carrier.wake()
        else:
            ask.then(ask, None)

    def _ask_ahead(self, bucket: Bucket, now: float) -> None:
        bucket.low = -1
        if ahead := bucket.ahead(now):
            self._want(bucket, ahead)

    def _look(self, buckets: Sequence[Bucket], then: Then, now: float) -> AdmissionResult:
        """The same where at least one bucket has nothing at hand."""
        if not self._carrier.is_connected:
            return Admission.FREE
        lacking = [bucket for bucket in buckets if not bucket.has_token(now)]
        for bucket in lacking:
            if bucket.refused_until > now:
                return RateLimited(bucket.kind, bucket.limit, bucket.refused_until - now)
        if self._waiting >= self._most_waiting:
            return RateLimited(buckets[0].kind, buckets[0].limit, 1.0)
        waiter = _Waiter(len(lacking), then)
        for bucket in buckets:
            bucket.spent += 1
            if bucket not in lacking:
                bucket.left -= 1
                continue
            ask = bucket.ask
            if ask is None or ask.sent_at:
                ask = self._want(bucket, bucket.ahead(now))
            bucket.waiters.append(waiter)
            ask.wanted += 1
        if not lacking:
            return Admission.FREE
        self._waiting += 1
        return Admission.WAITS

    def _want(self, bucket: Bucket, tokens: int) -> TokenRequest:
        def take(ask: TokenRequest, grant: TokenGrant | None) -> None:
            self._take(bucket, waiters, ask, grant)

        waiters: list[_Waiter] = []
        bucket.waiters = waiters
        bucket.ask = ask = TokenRequest(bucket.key, bucket.limit, tokens, take, lack_s=bucket.life_s if tokens else 0.0)
        bucket.leasing = bucket.leasing or tokens > 0
        self.ask(ask)
        return ask

    def _take(self, bucket: Bucket, waiters: list[_Waiter], ask: TokenRequest, grant: TokenGrant | None) -> None:
        if ask.lack_us:
            bucket.leasing = False
        if bucket.ask is ask:
            bucket.ask = None
        given = len(waiters)
        refused = None
        if grant is not None:
            now = self._now()
            given = grant.given
            bucket.keep(given - len(waiters), ask.sent_at + bucket.life_s, now)
            bucket.scarce = grant.left == 0
            if bucket.scarce:
                bucket.refused_until = now + grant.wait_s
                refused = RateLimited(bucket.kind, bucket.limit, grant.wait_s)
        for place, waiter in enumerate(waiters):
            self._waiting -= waiter.hear(None if place < given else refused)

    # What the engine asks of a rider.

    @property
    def waits(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._asks)

    def commands(self) -> list[Sequence[Value]]:
        """What goes with the next pipeline. Its replies come to `settle`, or `fail` is called."""
        now = self._now()
        commands: list[Sequence[Value]] = []
        for _ in range(min(len(self._asks), MAX_IN_PIPELINE)):
            ask = self._asks.popleft()
            ask.sent_at = now
            self._sent.append(ask)
            commands.append(ask.command())
        return commands

    def settle(self, replies: Sequence[Any]) -> None:
        """Gives out what came back. Where Redis refused it is as if it were away."""
        sent, self._sent = self._sent, []
        refusal: RedisError | None = None
        for ask, reply in zip(sent, replies, strict=True):
            if isinstance(reply, NoScriptError):
                ask.sent_at = 0.0
                self._asks.append(ask)
            elif isinstance(reply, RedisError):
                refusal = reply
                ask.then(ask, None)
            else:
                ask.then(ask, TokenGrant(reply[1], reply[2], reply[3] / 1e6))
        if refusal is not None:
            log.warning("redis refused leases", error=str(refusal))

    def fail(self) -> None:
        """Redis is away. What it gave meanwhile is lost, and nobody waits for it."""
        asks = [*self._sent, *self._asks]
        self._sent.clear()
        self._asks.clear()
        for ask in asks:
            ask.then(ask, None)
