"""The short way to use a coupon: whole small requests, straight from the protocol, as with redemptions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from issuer.access.api_keys import ApiKey
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.http.coupons.consume_answers import COUPON_REFUSALS, is_failed_lookup, use_wire
from issuer.http.coupons.consume_request import (
    ConsumeRequest,
    find_client,
    named_client,
    read_idempotency_key,
    read_small_request,
    submit,
)
from issuer.http.edge.exchange import Exchange, Headers, read_credentials
from issuer.http.limiting.failed_lookups import FailedLookups, is_public
from issuer.http.metrics.exposition import CRASH, INVALID, OF_COUPON
from issuer.http.operations import MAY_USE, MISSING_KEY, WRONG_SCOPE, ring_not_loaded
from issuer.http.problems.failures import problem_of
from issuer.http.problems.problem import ProblemError
from issuer.http.redeem.answers import CRASHED, Wire, to_wire
from issuer.http.services import Services
from issuer.rate_limits.leases import AdmissionResult, RateLimited
from issuer.settings import Auth, Settings

if TYPE_CHECKING:
    from issuer.http.edge.protocol import GuardedHttpToolsProtocol

log = structlog.get_logger()

COUNTED: Final = {outcome: OF_COUPON + outcome for outcome in (*Outcome, INVALID, CRASH)}
"""The names under which outcomes of coupons are counted."""
_UNAUTHORIZED: Final = to_wire(MISSING_KEY)
_FORBIDDEN: Final = to_wire(WRONG_SCOPE)
_NO_RING: Final = to_wire(ring_not_loaded())


class ConsumeRoute:
    """What is behind the short way. Until `services` is set, which the lifespan does, it answers "not ready"."""

    def __init__(self, settings: Settings) -> None:
        self.services: Services | None = None
        self._auth = settings.auth is Auth.ON

    def exchange(self, protocol: GuardedHttpToolsProtocol) -> Exchange:
        """One request that comes straight from the protocol."""
        return ConsumeExchange(self, protocol)

    def key_of(self, services: Services, authorization: bytes) -> ApiKey | None:
        """The valid key that was sent, with or without `Bearer`; None: there is none, or none is asked for."""
        if not self._auth:
            return None
        bearer = authorization[:7].lower() == b"bearer "
        return services.keys.find((authorization[7:] if bearer else authorization).strip())

    def refusal_of(self, services: Services, key: ApiKey | None) -> Wire | None:
        """What to answer to somebody with this key who may not use coupons."""
        if not self._auth:
            return None
        if key is None:
            return _UNAUTHORIZED if services.keys.loaded else _NO_RING
        return None if key.scopes & MAY_USE else _FORBIDDEN


class ConsumeExchange(Exchange):
    """One use without ASGI: begins when the request is there, ends when the engine has the answer."""

    __slots__ = (
        "_answered",
        "_headers",
        "_idempotency_key",
        "_keys_given",
        "_known",
        "_peer",
        "_route",
        "_services",
        "_started",
        "_task",
        "_url",
        "customer",
        "key",
    )  # fmt: skip

    customer: bytes | None
    key: ApiKey | None
    _headers: Headers
    _idempotency_key: bytes | None
    _keys_given: int
    _peer: str | None
    _services: Services | None
    _started: float
    _task: asyncio.Task[None]

    def __init__(self, route: ConsumeRoute, protocol: GuardedHttpToolsProtocol) -> None:
        super().__init__(protocol)
        self._route = route
        self._url = protocol.url
        self._known: Sequence[FailedLookups] = ()
        # The engine has answered; the client may have to wait until a miss is counted.
        self._answered = False

    def begin(self, headers: Headers, body: bytes) -> None:
        self._started = time.perf_counter()
        self._services = services = self._route.services
        if services is None:
            self._finish(Outcome.NOT_READY, COUPON_REFUSALS[Outcome.NOT_READY])
            return
        try:
            authorization, self._idempotency_key, self._keys_given = read_credentials(headers)
            self.key = key = self._route.key_of(services, authorization)
            client = self.protocol.client
            self._peer = peer = client[0] if client else None
            self._headers = headers
            if services.limits.passes(key, peer, headers, self._enter):
                self._ask(services)
        except Exception as error:
            self._fail(error)

    @property
    def address(self) -> str:
        """Whose request it is, for whoever counts misses."""
        assert self._services is not None
        return self._services.limits.address_of(self._peer, self._headers)

    def _enter(self, verdict: AdmissionResult) -> None:
        """Goes on when a rate limit has let the request in, or refused it."""
        services = self._services
        assert services is not None
        try:
            if isinstance(verdict, RateLimited):
                raise services.limits.refusal(verdict)
            self._ask(services)
        except Exception as error:
            self._fail(error)

    def _ask(self, services: Services) -> None:
        key = self.key
        refusal = self._route.refusal_of(services, key)
        if refusal is not None:
            self._finish(INVALID, refusal)
            return
        idempotency_key = read_idempotency_key(self._idempotency_key, self._keys_given)
        asked = read_small_request(self._url, self.body)
        self.customer = asked.customer
        self._known = services.lookup_limits.begin(self)
        bound_to, key_id = (None, 0) if key is None else (key.client_id, key.id)
        if bound_to is None and asked.client_id is None:
            self._start(self._find_and_submit(services, asked, key_id, idempotency_key), "find-coupon")
        else:
            submit(services, self, asked, named_client(asked, bound_to), key_id, idempotency_key)

    def _start(self, work: Coroutine[None, None, None], name: str) -> None:
        self._task = asyncio.get_running_loop().create_task(work, name=name)

    async def _find_and_submit(
        self, services: Services, asked: ConsumeRequest, api_key_id: int, key: str | None
    ) -> None:
        try:
            client_id = await find_client(services, asked, None)
            if self.disconnected:
                # Nothing was asked of Redis yet, and nobody waits any more.
                self._finish(Outcome.NOT_READY, COUPON_REFUSALS[Outcome.NOT_READY])
            else:
                submit(services, self, asked, client_id, api_key_id, key)
        except Exception as error:
            self._fail(error)

    def done(self) -> bool:
        """What a client that has gone meanwhile asked for is carried out all the same, and counted."""
        return self._answered or self.response_complete

    def set_result(self, answer: Answer) -> None:
        self._answered = True
        outcome = answer.outcome
        try:
            if outcome is not Outcome.GRANTED and is_failed_lookup(outcome, public=is_public(self.key)):
                self._start(self._count_failed_lookup(answer), "count-miss")
            else:
                self._finish(outcome, use_wire(answer))
        except Exception as error:
            self._fail(error)

    async def _count_failed_lookup(self, answer: Answer) -> None:
        """Counts it first: who has guessed too often is not told."""
        try:
            if self._services is not None:
                await self._services.lookup_limits.charge(self)
            self._finish(answer.outcome, use_wire(answer, public=is_public(self.key)))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        problem = error if isinstance(error, ProblemError) else problem_of(error)
        if problem is None:
            log.error("a request to use a coupon failed", exc_info=error)
        if not self.response_complete:
            self._finish(*((CRASH, CRASHED) if problem is None else (INVALID, to_wire(problem))))

    def _finish(self, outcome: str, wire: Wire) -> None:
        head, services, looking = wire.head, self._services, self._known
        if looking and services is not None:
            self._known = ()
            services.lookup_limits.end(looking)
        self.respond(head.status, head.lines, wire.body)
        if services is not None:
            services.tally.count(COUNTED[outcome], time.perf_counter() - self._started)
