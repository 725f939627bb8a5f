"""Against guessing: look-ups of codes that do not exist are counted, and who has had enough of them is refused.

A route that looks a code up for somebody who may be guessing does so within an attempt:

    with services.guesses.attempt(caller.key, caller.address, customer_id) as attempt:
        found = await look_up(code)
        if found is None:
            await attempt.missed()

`attempt` refuses before anything is looked up; `missed` counts the miss by API key, address and customer, over all
processes, and refuses to say that it was one when the limit is reached already. Hits cost and count nothing. While
Redis is away there is no counting and so no looking up.

Whoever asks with many requests at once gets as many look-ups at most before the first miss is known, and owes for
them: a miss is also counted where no token is left, and nobody is let in before the debt is paid.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from issuer.api_keys import ApiKey, Scope
from issuer.http.problems import ProblemError, not_ready
from issuer.http.rate_limits import MOST_ADDRESSES, MOST_KEYS, Table, limit_problem
from issuer.http.tally import Tally
from issuer.keys import limit_key
from issuer.leases import Ask, Grant, Leases, Refused
from issuer.limits import Limit, parse_limit
from issuer.settings import Settings

MOST_CUSTOMERS: Final = 65_536
DEBT_S: Final = 3_600.0
"""Nobody waits longer than this, and the time in which an empty bucket fills, for what he owes."""
BUSY_WAIT_S: Final = 1.0

NOT_VALID: Final = ProblemError(404, "code not valid", "code_not_valid")
"""What a public key is told of a code that is unknown, expired or otherwise not there for it."""


def is_public(key: ApiKey | None) -> bool:
    """Whether answers must not help who guesses."""
    return key is not None and Scope.PUBLIC in key.scopes


def is_operator(key: ApiKey | None) -> bool:
    """Whether the key may see all there is: such a one need not guess."""
    return key is not None and Scope.ADMIN in key.scopes and key.client_id is None


class _Misses:
    """The misses of one subject as this process knows them."""

    __slots__ = ("is_known", "key", "kind", "left", "limit", "looking", "more_at")

    def __init__(self, kind: str, key: str, limit: Limit) -> None:
        self.kind = kind
        self.key = key
        self.limit = limit
        self.looking = 0
        # Until the first miss nothing is known, and nothing is held back.
        self.is_known = False
        self.left = 0
        self.more_at = 0.0

    def hear(self, grant: Grant, now: float) -> None:
        self.is_known, self.left, self.more_at = True, grant.left, now + grant.wait_s

    def wait_s(self, now: float) -> float:
        """How long the next look-up must wait: every one that is going on may be a miss."""
        if not self.is_known:
            return 0.0
        more = 0 if now < self.more_at else 1 + int((now - self.more_at) / self.limit.interval_s)
        free = min(self.left + more, self.limit.burst)
        if free > self.looking:
            return 0.0
        return BUSY_WAIT_S if free else self.more_at - now

    def refusal(self, wait_s: float) -> Refused:
        return Refused(self.kind, self.limit, wait_s)


class Attempt:
    """One look-up. Use it as a context, or call `begin` and `end`."""

    def __init__(self, guesses: Guesses, counted: Sequence[_Misses]) -> None:
        self._guesses = guesses
        self._counted = counted

    def begin(self) -> None:
        for misses in self._counted:
            misses.looking += 1

    def end(self) -> None:
        for misses in self._counted:
            misses.looking -= 1

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    async def missed(self) -> None:
        """Counts a miss. Raises ProblemError: 429 where it was one too many, 503 where it could not be counted."""
        if self._counted:
            await self._guesses.charge(self._counted)


class Guesses:
    """Look-ups that found nothing, over all processes. Refusals are counted in `tally`."""

    def __init__(self, settings: Settings, leases: Leases, tally: Tally) -> None:
        self._leases = leases
        self._tally = tally
        self._limit = settings.miss_limit
        self._keys: Table[int, _Misses] = Table(MOST_KEYS)
        self._addresses: Table[str, _Misses] = Table(MOST_ADDRESSES)
        self._customers: Table[str, _Misses] = Table(MOST_CUSTOMERS)
        self._now = asyncio.get_running_loop().time

    def attempt(self, key: ApiKey | None, address: str, customer: str | None = None) -> Attempt:
        """A look-up by this caller. Raises ProblemError: 429, or 503 while misses cannot be counted."""
        counted = self._counted(key, address, customer)
        if counted and not self._leases.is_connected:
            raise not_ready("look-ups cannot be counted while Redis is away")
        now = self._now()
        for misses in counted:
            if (wait_s := misses.wait_s(now)) > 0:
                raise self._refusal(misses.refusal(wait_s))
        return Attempt(self, counted)

    def _counted(self, key: ApiKey | None, address: str, customer: str | None) -> list[_Misses]:
        if is_operator(key):
            return []
        counted = []
        own = None if key is None else key.guess_limit
        key_limit = self._limit if own is None else parse_limit(own)
        if key is not None and key_limit is not None:
            subject = str(key.id)
            counted.append(self._keys.of(key.id, lambda: _misses("key", subject, key_limit)))
        limit = self._limit
        if limit is None:
            return counted
        if own is None:
            # A key with a limit of its own is that of a server: behind its address are many.
            counted.append(self._addresses.of(address, lambda: _misses("address", address, limit)))
        if customer is not None:
            whose = _customer_of(key, customer)
            counted.append(self._customers.of(whose, lambda: _misses("customer", whose, limit)))
        return counted

    async def charge(self, counted: Sequence[_Misses]) -> None:
        """One miss in each bucket, whether or not it has room. Raises ProblemError as `Attempt.missed`."""
        grants = await asyncio.gather(*(self._take(misses) for misses in counted))
        if None in grants:
            raise not_ready("a look-up could not be counted")
        now = self._now()
        refused = None
        for misses, grant in zip(counted, grants, strict=True):
            assert grant is not None
            misses.hear(grant, now)
            if grant.given == 0:
                refused = refused or misses.refusal(grant.wait_s)
        if refused is not None:
            raise self._refusal(refused)

    def _take(self, misses: _Misses) -> asyncio.Future[Grant | None]:
        future: asyncio.Future[Grant | None] = asyncio.get_running_loop().create_future()

        def take(_: Ask, grant: Grant | None) -> None:
            if not future.done():
                future.set_result(grant)

        self._leases.ask(Ask(misses.key, misses.limit, 1, take, debt_s=DEBT_S))
        return future

    def _refusal(self, refused: Refused) -> ProblemError:
        self._tally.refuse(refused.kind)
        return limit_problem(refused, error="too many unknown codes", code="too_many_misses")


def _misses(by: str, subject: str, limit: Limit) -> _Misses:
    kind = f"misses_{by}"
    return _Misses(kind, limit_key(kind, subject), limit)


def _customer_of(key: ApiKey | None, customer: str) -> str:
    """The same id means another person at another client: one tenant's guesses are none of the other's."""
    owner = "" if key is None else str(key.client_id or key.id)
    return hashlib.sha256(f"{owner}\0{customer}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
