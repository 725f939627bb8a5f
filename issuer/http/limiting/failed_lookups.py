"""Enumeration protection: failed lookups of codes are counted, and callers over the limit are refused.

A route that looks a code up for a caller that may enumerate codes does so within an attempt:

    with services.lookup_limits.attempt(caller.key, caller.address, customer_id) as attempt:
        found = await look_up(code)
        if found is None:
            await attempt.failed()

Entering the attempt refuses before anything is looked up. `failed` counts the failed lookup over all processes, and
answers 429 instead of the result when the limit is already reached. Lookups that find a code are not counted. While
Redis is unavailable failed lookups cannot be counted, so no code is looked up.

No caller can use up what another one has:

- A caller is an address. A key with a limit of its own belongs to a server, whose address stands for many people: there
  the caller is the address with this key, its limit is the key's, and each customer that the server names is a caller
  too, with the limit of the settings.
- A public key is in many hands, so its failed lookups are counted together as well. Above that limit a right code is
  still answered, but a failed lookup is a 429 and costs its address all that an address may have: many addresses get
  the limit of the key, and beyond it about one attempt each in a period.
- With authentication off behind a gateway all callers have one address: it is only counted if the operator has said by
  which proxies the addresses are reported.

A caller with no token left gets one more lookup: as long as it fails no more often than the limit allows, a right code
is answered. A caller that sends many requests at once gets at most MAX_PENDING lookups before the first failed one is
counted, and its bucket gets a negative balance for them, which is refilled within one period.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self
from uuid import UUID

from issuer.access.api_keys import ApiKey, Scope
from issuer.contract.keys import limit_key
from issuer.http.limiting.lru_table import LruTable
from issuer.http.limiting.rate_limits import limit_problem
from issuer.http.metrics.tally import Tally
from issuer.http.problems.problem import ProblemError, not_ready
from issuer.rate_limit import OFF, RateLimit, parse_limit
from issuer.rate_limits.leases import Leases, RateLimited
from issuer.rate_limits.token_requests import TokenGrant, TokenRequest
from issuer.settings import Settings

MAX_SUBJECTS: Final = 65_536
"""Callers, customers and public keys whose failed lookups a process has in memory. Redis has those of all others."""
MAX_PENDING: Final = 64
"""Lookups that a caller with failed ones may have in progress at once; more than that if its limit is larger."""
BUSY_WAIT_S: Final = 1.0

NOT_VALID: Final = ProblemError(404, "code not valid", "code_not_valid")
"""The answer to a public key for a code that is unknown, expired or otherwise not usable with this key."""


def is_public(key: ApiKey | None) -> bool:
    """Return whether answers to this key must not reveal why a code cannot be used."""
    return key is not None and Scope.PUBLIC in key.scopes


def is_operator(key: ApiKey | None) -> bool:
    """Return whether the key may list all codes, so that it has nothing to enumerate."""
    return key is not None and Scope.ADMIN in key.scopes and key.client_id is None


def _has_own_limit(key: ApiKey | None) -> bool:
    """Return whether the key is that of a server, which sends the requests of many people."""
    return key is not None and key.failed_lookup_limit is not None and Scope.PUBLIC not in key.scopes


def _owner_of(key: ApiKey) -> UUID | int:
    """Return the owner of the customer ids that come with this key: two clients may use one id for two people."""
    return key.client_id or key.id


class _Subject(NamedTuple):
    """A caller, a customer or a public key whose failed lookups are counted; `table` keeps them at `place`."""

    kind: str
    name: str
    limit: RateLimit
    table: LruTable[Hashable, FailedLookups]
    place: Hashable

    @property
    def bucket(self) -> str:
        return limit_key(self.kind, hashlib.sha256(self.name.encode()).hexdigest()[:32])


class FailedLookups:
    """The failed lookups of one subject in the memory of this process. A subject without any is never delayed."""

    __slots__ = ("left", "more_at", "over", "pending", "subject")

    def __init__(self, subject: _Subject) -> None:
        self.subject = subject
        self.pending = 0
        self.left = 0
        self.more_at = 0.0
        # Over the limit: the last failed lookup found no token.
        self.over = False

    def update(self, grant: TokenGrant, now: float) -> None:
        """Take over what Redis returned for the bucket."""
        self.left, self.more_at, self.over = grant.left, now + grant.wait_s, grant.given == 0

    def is_over(self, now: float) -> bool:
        """Return whether the limit is reached and no token has flown in since."""
        return self.over and now < self.more_at

    def wait_s(self, now: float) -> float:
        """Return how long the next lookup must wait. Every pending one counts: it may fail."""
        if self.is_over(now):
            return self.more_at - now
        limit = self.subject.limit
        if self.pending >= max(MAX_PENDING, limit.burst):
            return BUSY_WAIT_S
        more = 0 if now < self.more_at else 1 + int((now - self.more_at) / limit.interval_s)
        free = min(self.left + more, limit.burst)
        # With more than half of its tokens a caller may send many at once; failed ones are counted all the same.
        return 0.0 if free >= self.pending or free * 2 > limit.burst else BUSY_WAIT_S


class LookupSubject(Protocol):
    """The caller of a lookup: what its failed lookups are counted by."""

    @property
    def key(self) -> ApiKey | None: ...

    @property
    def address(self) -> str: ...

    @property
    def customer(self) -> bytes | None: ...


@dataclass(slots=True)
class LookupAttempt:
    """One lookup, as a context manager."""

    lookup_limits: FailedLookupLimits
    key: ApiKey | None
    address: str
    customer: bytes | None
    _known: Sequence[FailedLookups] = ()

    def __enter__(self) -> Self:
        self._known = self.lookup_limits.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lookup_limits.end(self._known)

    async def failed(self) -> None:
        """Count a failed lookup. Raises ProblemError as `FailedLookupLimits.charge`."""
        await self.lookup_limits.charge(self)


class FailedLookupLimits:
    """Limits of failed lookups over all processes. Refusals are counted in `tally`."""

    def __init__(self, settings: Settings, leases: Leases, tally: Tally) -> None:
        self._leases = leases
        self._tally = tally
        self._limit = settings.lookup_limit
        self._public_limit = settings.public_lookup_limit
        self._counts_addresses = settings.counts_addresses
        # Whether any of these tables has an entry: most processes never see a failed lookup.
        self._has_entries = False
        self._public_keys: LruTable[Hashable, FailedLookups] = LruTable(MAX_SUBJECTS)
        self._callers: LruTable[Hashable, FailedLookups] = LruTable(MAX_SUBJECTS)
        self._customers: LruTable[Hashable, FailedLookups] = LruTable(MAX_SUBJECTS)
        self._now = asyncio.get_running_loop().time

    def attempt(self, key: ApiKey | None, address: str, customer: bytes | None = None) -> LookupAttempt:
        """Return the context of a lookup by this caller. Entering it raises as `begin` does."""
        return LookupAttempt(self, key, address, customer)

    def begin(self, caller: LookupSubject) -> Sequence[FailedLookups]:
        """Admit a lookup. Returns what to pass to `end` once the lookup has its result.

        Raises ProblemError: 429, or 503 while failed lookups cannot be counted.
        """
        if not self._leases.is_connected and self._subjects(caller):
            raise not_ready("failed lookups cannot be counted while Redis is unavailable")
        if not self._has_entries or is_operator(caller.key):
            return ()
        known, now = self._known_of(caller), self._now()
        for lookups in known:
            if (wait_s := lookups.wait_s(now)) > 0:
                raise self._refusal(lookups.subject, wait_s)
        for lookups in known:
            lookups.pending += 1
        return known

    def end(self, pending: Sequence[FailedLookups]) -> None:
        """Note that a lookup has its result. `pending`: what `begin` returned for it."""
        for lookups in pending:
            lookups.pending -= 1

    def _known_of(self, caller: LookupSubject) -> list[FailedLookups]:
        """Return the entries of a caller. The subjects themselves are not built: most lookups find their code."""
        key = caller.key
        if _has_own_limit(key):
            assert key is not None
            found = [self._callers.find((key.id, caller.address))]
            if caller.customer is not None:
                found.append(self._customers.find((_owner_of(key), caller.address, caller.customer)))
        else:
            found = [self._callers.find(caller.address)]
        return [lookups for lookups in found if lookups is not None]

    def _subjects(self, caller: LookupSubject) -> list[_Subject]:
        """Return who is refused above its limit for failed lookups of this caller."""
        key, address, limit = caller.key, caller.address, self._limit
        if is_operator(key) or (key is None and not self._counts_addresses):
            return []
        if not _has_own_limit(key):
            return [] if limit is None else [_Subject("failed_lookups_address", address, limit, self._callers, address)]
        assert key is not None
        subjects, own = [], parse_limit(key.failed_lookup_limit or OFF)
        if own is not None:
            name = f"{key.id} {address}"
            subjects.append(_Subject("failed_lookups_key", name, own, self._callers, (key.id, address)))
        if limit is not None and caller.customer is not None:
            owner = _owner_of(key)
            name, place = f"{owner} {address} {caller.customer.hex()}", (owner, address, caller.customer)
            subjects.append(_Subject("failed_lookups_customer", name, limit, self._customers, place))
        return subjects

    def _public_key(self, key: ApiKey | None) -> _Subject | None:
        """Return a public key as what failed lookups are counted by, over all addresses."""
        if key is None or not is_public(key):
            return None
        own = key.failed_lookup_limit
        limit = self._public_limit if own is None else parse_limit(own)
        if limit is None:
            return None
        return _Subject("failed_lookups_public_key", str(key.id), limit, self._public_keys, key.id)

    async def charge(self, caller: LookupSubject) -> None:
        """Take the tokens for a failed lookup, also from an empty bucket.

        Raises ProblemError: 429 where a bucket was empty, 503 where the failed lookup could not be counted.
        """
        subjects, public, now = self._subjects(caller), self._public_key(caller.key), self._now()
        known = None if public is None else self._public_keys.find(public.place)
        costs = [subject.limit.burst if known is not None and known.is_over(now) else 1 for subject in subjects]
        if public is not None:
            subjects, costs = [*subjects, public], [*costs, 1]
        grants = await asyncio.gather(*map(self._take, subjects, costs))
        if None in grants:
            raise not_ready("a failed lookup could not be counted")
        self._has_entries = True
        now = self._now()
        refused: ProblemError | None = None
        for subject, grant in zip(subjects, grants, strict=True):
            assert grant is not None
            subject.table.of(subject.place, partial(FailedLookups, subject)).update(grant, now)
            if grant.given == 0 and refused is None:
                refused = self._refusal(subject, grant.wait_s)
        if refused is not None:
            raise refused

    def _take(self, subject: _Subject, cost: int) -> asyncio.Future[TokenGrant | None]:
        future: asyncio.Future[TokenGrant | None] = asyncio.get_running_loop().create_future()

        def take(_: TokenRequest, grant: TokenGrant | None) -> None:
            if not future.done():
                future.set_result(grant)

        # However many lookups fail, the next token is at most one period away; `cost` may add to that.
        limit = subject.limit
        debt_s = max(0.001, limit.period_s - 2 * limit.interval_s)
        self._leases.send(TokenRequest(subject.bucket, limit, cost, take, debt_s=debt_s))
        return future

    def _refusal(self, subject: _Subject, wait_s: float) -> ProblemError:
        self._tally.refuse(subject.kind)
        refused = RateLimited(subject.kind, subject.limit, wait_s)
        return limit_problem(refused, error="too many unknown codes", code="too_many_failed_lookups")
