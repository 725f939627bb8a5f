"""Against guessing: look-ups of codes that do not exist are counted, and who has had enough of them is refused.

A route that looks a code up for somebody who may be guessing does so within an attempt:

    with services.lookup_limits.attempt(caller.key, caller.address, customer_id) as attempt:
        found = await look_up(code)
        if found is None:
            await attempt.missed()

Entering it refuses before anything is looked up; `missed` counts the miss by API key, address and customer, over all
processes, and refuses to say that it was one when the limit is reached already. Hits cost and count nothing. While
Redis is away there is no counting and so no looking up.

Whoever asks with many requests at once gets as many look-ups at most before the first miss is known, and owes for
them: a miss is also counted where no token is left, and nobody is let in before the debt is paid.
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
from issuer.http.limiting.rate_limits import Table, limit_problem
from issuer.http.metrics.tally import Tally
from issuer.http.problems.problem import ProblemError, not_ready
from issuer.rate_limit import RateLimit, parse_limit
from issuer.rate_limits.leases import Leases, RateLimited, TokenGrant, TokenRequest
from issuer.settings import Settings

MAX_SUBJECTS: Final = 65_536
"""Keys, addresses and customers of whom a process knows misses; of the others Redis does."""
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


def _owner_of(key: ApiKey | None) -> UUID | int | None:
    """Whose customers come with this key. The same id means another person at another client."""
    return None if key is None else key.client_id or key.id


class _Subject(NamedTuple):
    """One by whom the misses of somebody are counted. At `place` in `table` is what this process knows of them."""

    kind: str
    name: str
    limit: RateLimit
    table: Table[Hashable, FailedLookups]
    place: Hashable

    @property
    def bucket(self) -> str:
        return limit_key(self.kind, hashlib.sha256(self.name.encode()).hexdigest()[:32])


class FailedLookups:
    """The misses of one subject as this process knows them. Of whom it knows none nothing is held back."""

    __slots__ = ("left", "looking", "more_at", "subject")

    def __init__(self, subject: _Subject) -> None:
        self.subject = subject
        self.looking = 0
        self.left = 0
        self.more_at = 0.0

    def hear(self, grant: TokenGrant, now: float) -> None:
        self.left, self.more_at = grant.left, now + grant.wait_s

    def wait_s(self, now: float) -> float:
        """How long the next look-up must wait: every one that is going on may be a miss."""
        limit = self.subject.limit
        more = 0 if now < self.more_at else 1 + int((now - self.more_at) / limit.interval_s)
        free = min(self.left + more, limit.burst)
        # Who mistypes now and then may go on with many requests at once; his debts are counted all the same.
        if free > self.looking or free * 2 > limit.burst:
            return 0.0
        return BUSY_WAIT_S if free else self.more_at - now


class LookupSubject(Protocol):
    """Who looks something up."""

    @property
    def key(self) -> ApiKey | None: ...

    @property
    def address(self) -> str: ...

    @property
    def customer(self) -> bytes | None: ...


@dataclass(slots=True)
class LookupAttempt:
    """One look-up, as a context."""

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

    async def missed(self) -> None:
        """Counts a miss. Raises ProblemError as `Guesses.charge`."""
        await self.lookup_limits.charge(self)


class FailedLookupLimits:
    """Look-ups that found nothing, over all processes. Refusals are counted in `tally`."""

    def __init__(self, settings: Settings, leases: Leases, tally: Tally) -> None:
        self._leases = leases
        self._tally = tally
        self._limit = settings.lookup_limit
        # Whether there is anything in these tables.
        self._knows_failed_lookups = False
        self._keys: Table[Hashable, FailedLookups] = Table(MAX_SUBJECTS)
        self._addresses: Table[Hashable, FailedLookups] = Table(MAX_SUBJECTS)
        self._customers: Table[Hashable, FailedLookups] = Table(MAX_SUBJECTS)
        self._now = asyncio.get_running_loop().time

    def attempt(self, key: ApiKey | None, address: str, customer: bytes | None = None) -> LookupAttempt:
        """A look-up by this caller. It is refused as by `begin` when it is entered."""
        return LookupAttempt(self, key, address, customer)

    def begin(self, asker: LookupSubject) -> Sequence[FailedLookups]:
        """Returns what to `end` when it is known what was found.

        Raises ProblemError: 429, or 503 while misses cannot be counted.
        """
        if not self._leases.is_connected and self._subjects(asker):
            raise not_ready("look-ups cannot be counted while Redis is away")
        if not self._knows_failed_lookups or is_operator(asker.key):
            return ()
        known, now = self._known_of(asker), self._now()
        for misses in known:
            if (wait_s := misses.wait_s(now)) > 0:
                raise self._refusal(misses.subject, wait_s)
        for misses in known:
            misses.looking += 1
        return known

    def end(self, looking: Sequence[FailedLookups]) -> None:
        for misses in looking:
            misses.looking -= 1

    def _known_of(self, asker: LookupSubject) -> list[FailedLookups]:
        """What is known of who does it, without naming all subjects: nearly everybody hits."""
        key, found = asker.key, []
        if key is not None:
            found.append(self._keys.find(key.id))
        if key is None or key.failed_lookup_limit is None:
            found.append(self._addresses.find(asker.address))
        if asker.customer is not None:
            found.append(self._customers.find((_owner_of(key), asker.customer)))
        return [misses for misses in found if misses is not None]

    def _subjects(self, asker: LookupSubject) -> list[_Subject]:
        key, customer = asker.key, asker.customer
        if is_operator(key):
            return []
        subjects = []
        own = None if key is None else key.failed_lookup_limit
        limit, key_limit = self._limit, self._limit if own is None else parse_limit(own)
        if key is not None and key_limit is not None:
            subjects.append(_Subject("failed_lookups_key", str(key.id), key_limit, self._keys, key.id))
        if limit is not None and own is None:
            # A key with a limit of its own is that of a server: behind its address are many.
            subjects.append(_Subject("failed_lookups_address", asker.address, limit, self._addresses, asker.address))
        if limit is not None and customer is not None:
            owner = _owner_of(key)
            name = f"{owner or ''} {customer.hex()}"
            subjects.append(_Subject("failed_lookups_customer", name, limit, self._customers, (owner, customer)))
        return subjects

    async def charge(self, asker: LookupSubject) -> None:
        """One miss in each bucket, whether or not it has room.

        Raises ProblemError: 429 where it was one too many, 503 where it could not be counted.
        """
        subjects = self._subjects(asker)
        grants = await asyncio.gather(*map(self._take, subjects))
        if None in grants:
            raise not_ready("a look-up could not be counted")
        self._knows_failed_lookups = True
        now = self._now()
        refused: ProblemError | None = None
        for subject, grant in zip(subjects, grants, strict=True):
            assert grant is not None
            subject.table.of(subject.place, partial(FailedLookups, subject)).hear(grant, now)
            if grant.given == 0 and refused is None:
                refused = self._refusal(subject, grant.wait_s)
        if refused is not None:
            raise refused

    def _take(self, subject: _Subject) -> asyncio.Future[TokenGrant | None]:
        future: asyncio.Future[TokenGrant | None] = asyncio.get_running_loop().create_future()

        def take(_: TokenRequest, grant: TokenGrant | None) -> None:
            if not future.done():
                future.set_result(grant)

        self._leases.ask(TokenRequest(subject.bucket, subject.limit, 1, take, debt_s=DEBT_S))
        return future

    def _refusal(self, subject: _Subject, wait_s: float) -> ProblemError:
        self._tally.refuse(subject.kind)
        refused = RateLimited(subject.kind, subject.limit, wait_s)
        return limit_problem(refused, error="too many unknown codes", code="too_many_failed_lookups")
