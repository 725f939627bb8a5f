"""Who is counted by rate limits, API keys and IP addresses, and what is told who has had enough."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from issuer.access.api_keys import ApiKey
from issuer.contract.keys import limit_key
from issuer.http.edge.client_address import Headers, Proxies
from issuer.http.metrics.tally import Tally
from issuer.http.problems.problem import ProblemError
from issuer.networks import parse_networks
from issuer.rate_limit import RateLimit, parse_limit
from issuer.rate_limits.leases import Admission, AdmissionResult, Bucket, Leases, RateLimited, Then
from issuer.settings import Settings

MAX_KEYS: Final = 16_384
MAX_ADDRESSES: Final = 65_536


Subject = TypeVar("Subject", bound=Hashable)
Kept = TypeVar("Kept")


class Table(Generic[Subject, Kept]):
    """What is kept of the subjects that were seen last; of others nothing, and they begin anew."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Subject, Kept] = OrderedDict()

    def find(self, subject: Subject) -> Kept | None:
        kept = self._kept.get(subject)
        if kept is not None:
            self._kept.move_to_end(subject)
        return kept

    def of(self, subject: Subject, make: Callable[[], Kept]) -> Kept:
        kept = self.find(subject)
        if kept is None:
            kept = self._kept[subject] = make()
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return kept


class RateLimits:
    """The rate limits as one process applies them. What is refused is counted in `tally`."""

    def __init__(self, settings: Settings, leases: Leases, tally: Tally) -> None:
        self._leases = leases
        self._tally = tally
        self.address_of = Proxies(parse_networks(settings.trusted_proxies)).address_of
        self._key_limit = settings.key_limit
        self._address_limit = settings.address_limit
        self._keys: Table[int, Bucket] = Table(MAX_KEYS)
        self._addresses: Table[str, Bucket] = Table(MAX_ADDRESSES)
        self._pairs: Table[tuple[int, str], tuple[Bucket, ...]] = Table(MAX_ADDRESSES)
        self._any = self._key_limit is not None or self._address_limit is not None

    def count(self, key: ApiKey | None) -> bool:
        """Whether anything is counted for requests with this key."""
        return self._any or (key is not None and key.rate_limit is not None)

    def enter(self, key: ApiKey | None, address: str, then: Then) -> AdmissionResult:
        """One request of this key and this address: FREE, refused, or WAITS and `then` is told."""
        pair = (0 if key is None else key.id, address)
        return self._leases.spend(self._pairs.of(pair, lambda: self._buckets_of(key, address)), then)

    def passes(self, key: ApiKey | None, peer: str | None, headers: Headers, then: Then) -> bool:
        """Whether the request may go on at once. If not `then` is told what becomes of it, now or later."""
        # As `count`, without a call: every request comes here, and most installations set no limit.
        if not self._any and (key is None or key.rate_limit is None):
            return True
        verdict = self.enter(key, self.address_of(peer, headers), then)
        if isinstance(verdict, RateLimited):
            then(verdict)
        return verdict is Admission.ADMITTED

    async def admit(self, key: ApiKey | None, address: str) -> None:
        """Returns when the request may go on. Raises ProblemError: 429."""
        if not self.count(key):
            return
        future: asyncio.Future[AdmissionResult] = asyncio.get_running_loop().create_future()
        verdict = self.enter(key, address, lambda verdict: None if future.done() else future.set_result(verdict))
        if verdict is Admission.PENDING:
            verdict = await future
        if isinstance(verdict, RateLimited):
            raise self.refusal(verdict)

    def refusal(self, refused: RateLimited) -> ProblemError:
        """What is told who was refused, and counted."""
        self._tally.refuse(refused.kind)
        return limit_problem(refused)

    def _buckets_of(self, key: ApiKey | None, address: str) -> tuple[Bucket, ...]:
        counted = []
        if (limit := self._address_limit) is not None:
            counted.append(self._addresses.of(address, lambda: _bucket("address", address, limit)))
        if key is not None:
            own = self._key_limit if key.rate_limit is None else parse_limit(key.rate_limit)
            if own is not None:
                counted.append(self._keys.of(key.id, lambda: _bucket("key", str(key.id), own)))
        return tuple(counted)


def _bucket(kind: str, subject: str, limit: RateLimit) -> Bucket:
    return Bucket(kind, limit_key(kind, subject), limit)


def limit_problem(
    refused: RateLimited, *, error: str = "too many requests", code: str = "rate_limited"
) -> ProblemError:
    """429 with the fields of draft-ietf-httpapi-ratelimit-headers-11."""
    limit, kind = refused.limit, refused.kind
    wait_s = max(1, math.ceil(refused.wait_s))
    return ProblemError(
        429,
        error,
        code,
        detail=f"{error}: the limit `{kind}` is {limit.count} in {limit.period_s} s; try again in {wait_s} s",
        headers={
            "Retry-After": str(wait_s),
            "RateLimit-Policy": f'"{kind}";q={limit.count};w={limit.period_s};issuer-burst={limit.burst}',
            "RateLimit": f'"{kind}";r=0;t={wait_s}',
        },
        members={"violated-policies": [kind]},
    )
