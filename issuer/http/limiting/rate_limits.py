"""Rate limits of HTTP requests, by API key and by IP address, and the answer to a request over a limit."""

from __future__ import annotations

import asyncio
import math
from typing import Final, Protocol

from issuer.access.api_keys import ApiKey
from issuer.contract.keys import limit_key
from issuer.http.edge.client_address import Proxies
from issuer.http.edge.header_fields import Headers
from issuer.http.limiting.lru_table import LruTable
from issuer.http.metrics.tally import Tally
from issuer.http.problems.problem import ProblemError
from issuer.networks import parse_networks
from issuer.rate_limit import RateLimit, parse_limit
from issuer.rate_limits.leases import Admission, AdmissionResult, Bucket, Leases, RateLimited, Then
from issuer.settings import Settings

MAX_KEYS: Final = 16_384
MAX_ADDRESSES: Final = 65_536


class LimitedRequest(Protocol):
    """A request that cannot await its admission. `peer`: as `address_of` takes it."""

    @property
    def key(self) -> ApiKey | None: ...

    @property
    def peer(self) -> str | None: ...

    @property
    def headers(self) -> Headers: ...

    def enter(self, verdict: AdmissionResult) -> None:
        """Continue when the limits have admitted or refused the request."""
        ...


class RateLimits:
    """The rate limits in one process. Refusals are counted in `tally`."""

    def __init__(self, settings: Settings, leases: Leases, tally: Tally) -> None:
        self._leases = leases
        self._tally = tally
        self.address_of = Proxies(parse_networks(settings.trusted_proxies)).address_of
        self._key_limit = settings.key_limit
        self._address_limit = settings.address_limit
        self._keys: LruTable[int, Bucket] = LruTable(MAX_KEYS)
        self._addresses: LruTable[str, Bucket] = LruTable(MAX_ADDRESSES)
        self._pairs: LruTable[tuple[int, str], tuple[Bucket, ...]] = LruTable(MAX_ADDRESSES)
        self._any = self._key_limit is not None or self._address_limit is not None

    def count(self, key: ApiKey | None) -> bool:
        """Return whether requests with this key are counted."""
        return self._any or (key is not None and key.rate_limit is not None)

    def enter(self, key: ApiKey | None, address: str, then: Then) -> AdmissionResult:
        """Count a request of this key and this address. PENDING: `then` is called with the result."""
        pair = (0 if key is None else key.id, address)
        return self._leases.spend(self._pairs.of(pair, lambda: self._buckets_of(key, address)), then)

    def passes(self, request: LimitedRequest) -> bool:
        """Return whether the request is admitted at once. If not, its `enter` is called, now or later."""
        key = request.key
        # As `count`, without a call: every request comes here, and what no limit needs is not computed.
        if not self._any and (key is None or key.rate_limit is None):
            return True
        verdict = self.enter(key, self.address_of(request.peer, request.headers), request.enter)
        if isinstance(verdict, RateLimited):
            request.enter(verdict)
        return verdict is Admission.ADMITTED

    async def admit(self, key: ApiKey | None, address: str) -> None:
        """Return when the request is admitted. Raises ProblemError: 429."""
        if not self.count(key):
            return
        future: asyncio.Future[AdmissionResult] = asyncio.get_running_loop().create_future()
        verdict = self.enter(key, address, lambda verdict: None if future.done() else future.set_result(verdict))
        if verdict is Admission.PENDING:
            verdict = await future
        if isinstance(verdict, RateLimited):
            raise self.refusal(verdict)

    def refusal(self, refused: RateLimited) -> ProblemError:
        """Count a refusal and return its answer."""
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
    """Return a 429 with the fields of draft-ietf-httpapi-ratelimit-headers-11."""
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
