"""POST /api/v1/code/redeem: the hot path.

No request or response objects, no validation library, no Postgres: bytes in, one call of the engine, bytes out. Whole
small requests come straight from the protocol (`RedeemExchange`), all others as to a bare ASGI application
(`RedeemRoute.__call__`); both take the same three steps: admit, submit, answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from uuid import UUID

import orjson
import structlog
from starlette.types import Receive, Scope, Send

from issuer.access.api_keys import ApiKey
from issuer.access.api_keys import Scope as KeyScope
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import BOUND, Answer, PoolRef, Slot
from issuer.http.edge.exchange import Exchange, Headers, read_credentials
from issuer.http.fields import KEY_FORM, UUID_FORM
from issuer.http.metrics.exposition import CRASH, INVALID
from issuer.http.problems.problem import ProblemError
from issuer.http.redeem.answers import (
    BAD_BATCH,
    BAD_CLIENT,
    BAD_CUSTOMER,
    BAD_KEY,
    CRASHED,
    FORBIDDEN,
    NO_RING,
    REFUSALS,
    TOO_LARGE,
    UNAUTHORIZED,
    UNPARSABLE,
    Wire,
    answer_wire,
    to_wire,
)
from issuer.http.services import Services
from issuer.rate_limits.leases import AdmissionResult, RateLimited
from issuer.settings import Auth, Settings

if TYPE_CHECKING:
    from issuer.http.edge.protocol import GuardedHttpToolsProtocol

log = structlog.get_logger()

MAX_POOL_REFS: Final = 65_536
NOT_YOURS: Final = Answer(Outcome.SOLD_OUT)

Admitted = tuple[ApiKey | None, bytes | None, int]
"""The API key (None: not needed), the Idempotency-Key, and how many of the latter were given."""


class DisconnectedError(Exception):
    """The client is gone; nobody waits for an answer."""


class RedeemRoute:
    """What is behind the route. Until `services` is set, which the lifespan does, it answers "not ready"."""

    def __init__(self, settings: Settings) -> None:
        self.services: Services | None = None
        self._auth = settings.auth is Auth.ON
        self._max_body_bytes = settings.max_body_bytes
        self._pools: dict[tuple[str, str], PoolRef] = {}
        self._bound_pools: dict[tuple[str, str], PoolRef] = {}

    def exchange(self, protocol: GuardedHttpToolsProtocol) -> Exchange:
        """One request that comes straight from the protocol."""
        return RedeemExchange(self, protocol)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        services = self.services
        try:
            if services is None:
                outcome, wire = str(Outcome.NOT_READY), REFUSALS[Outcome.NOT_READY]
            else:
                peer = scope["client"][0] if scope.get("client") else None
                outcome, wire = await self._answer(services, peer, scope["headers"], receive)
        except DisconnectedError:
            return
        except Exception:
            log.exception("a request to redeem failed")
            outcome, wire = CRASH, CRASHED
        await send(wire.head.start)
        await send({"type": "http.response.body", "body": wire.body})
        if services is not None:
            services.tally.count(outcome, time.perf_counter() - started)

    async def _answer(
        self, services: Services, peer: str | None, headers: Iterable[tuple[bytes, bytes]], receive: Receive
    ) -> tuple[str, Wire]:
        admitted = self.admit(services, headers)
        limits = services.limits
        key = None if isinstance(admitted, Wire) else admitted[0]
        if limits.count(key):
            try:
                await limits.admit(key, limits.address_of(peer, headers))
            except ProblemError as problem:
                return INVALID, to_wire(problem)
        if isinstance(admitted, Wire):
            return INVALID, admitted
        body = await self._read(receive)
        if body is None:
            return INVALID, TOO_LARGE
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        refusal = self.submit(services, admitted, body, future)
        if refusal is not None:
            return INVALID, refusal
        answer = await future
        return answer.outcome, answer_wire(answer)

    def admit(self, services: Services, headers: Iterable[tuple[bytes, bytes]]) -> Admitted | Wire:
        """Whether the caller may redeem at all; if not, what to answer. Needs the headers only."""
        authorization, idempotency_key, keys_given = read_credentials(headers)
        api_key: ApiKey | None = None
        if self._auth:
            if authorization[:7].lower() == b"bearer ":
                api_key = services.keys.find(authorization[7:].strip())
            if api_key is None:
                return UNAUTHORIZED if services.keys.loaded else NO_RING
            if KeyScope.REDEEM not in api_key.scopes:
                return FORBIDDEN
        return api_key, idempotency_key, keys_given

    def submit(self, services: Services, admitted: Admitted, body: bytes, slot: Slot) -> Wire | None:
        """Parses the body and asks the engine, which puts the answer into `slot`; or says what to answer instead."""
        api_key, idempotency_key, keys_given = admitted
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            return UNPARSABLE
        if type(fields) is not dict:
            return UNPARSABLE
        batch, client, customer = fields.get("batchid"), fields.get("clientid"), fields.get("customerid")
        bound_to = None if api_key is None else api_key.client_id
        # What is in the cache was valid when it came in.
        pools = self._pools if bound_to is None else self._bound_pools
        pool = pools.get((batch, client)) if type(batch) is str and type(client) is str else None
        if pool is None:
            if type(batch) is not str or UUID_FORM.fullmatch(batch) is None:
                return BAD_BATCH
            if type(client) is not str or UUID_FORM.fullmatch(client) is None:
                return BAD_CLIENT
        if type(customer) is not str or UUID_FORM.fullmatch(customer) is None:
            return BAD_CUSTOMER
        assert batch is not None
        assert client is not None
        if keys_given and (keys_given > 1 or not idempotency_key or not KEY_FORM.fullmatch(idempotency_key)):
            return BAD_KEY
        if bound_to is not None and UUID(client) != bound_to:
            # Whatever there is of another client's is not looked at, so nothing can be told of it.
            slot.set_result(NOT_YOURS)
            return None
        if pool is None:
            pool = self._pool(services, batch, client, bound=bound_to is not None)
        services.engine.submit(
            slot,
            pool,
            bytes.fromhex(customer.replace("-", "")),
            0 if api_key is None else api_key.id,
            None if idempotency_key is None else idempotency_key.decode("ascii"),
        )
        return None

    def _pool(self, services: Services, batch: str, client: str, *, bound: bool) -> PoolRef:
        pools = self._bound_pools if bound else self._pools
        if len(pools) >= MAX_POOL_REFS:
            pools.clear()
        pool = services.engine.pool_ref(UUID(batch), UUID(client), flags=BOUND if bound else 0)
        # The number of partitions is what the installation says, and that is known once Redis is reached.
        if services.engine.is_ready:
            pools[batch, client] = pool
        return pool

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or None when it is larger than allowed."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        body: bytes = message.get("body", b"")
        while message.get("more_body"):
            if len(body) > self._max_body_bytes:
                return None
            message = await receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            body += message.get("body", b"")
        return body if len(body) <= self._max_body_bytes else None


class RedeemExchange(Exchange):
    """One redemption without ASGI: begins when the request is there, ends when the engine has the answer."""

    __slots__ = ("_admitted", "_route", "_services", "_started")

    def __init__(self, route: RedeemRoute, protocol: GuardedHttpToolsProtocol) -> None:
        super().__init__(protocol)
        self._route = route
        self._services: Services | None = None
        self._admitted: Admitted | Wire = NO_RING
        self._started = 0.0

    def begin(self, headers: Headers, body: bytes) -> None:
        self._started = time.perf_counter()
        route = self._route
        self._services = services = route.services
        if services is None:
            self._finish(Outcome.NOT_READY, REFUSALS[Outcome.NOT_READY])
            return
        try:
            self._admitted = admitted = route.admit(services, headers)
            key = None if isinstance(admitted, Wire) else admitted[0]
            client = self.protocol.client
            if not services.limits.passes(key, client[0] if client else None, headers, self._enter):
                return
            refusal = admitted if isinstance(admitted, Wire) else route.submit(services, admitted, body, self)
        except Exception:
            log.exception("a request to redeem failed")
            self._crash()
            return
        if refusal is not None:
            self._finish(INVALID, refusal)

    def _enter(self, verdict: AdmissionResult) -> None:
        """Goes on when a rate limit has let the request in, or refused it."""
        services, admitted = self._services, self._admitted
        assert services is not None
        try:
            if isinstance(verdict, RateLimited):
                refusal: Wire | None = to_wire(services.limits.refusal(verdict))
            elif isinstance(admitted, Wire):
                refusal = admitted
            else:
                refusal = self._route.submit(services, admitted, self.body, self)
            if refusal is not None:
                self._finish(INVALID, refusal)
        except Exception:
            log.exception("a request to redeem failed")
            self._crash()

    def done(self) -> bool:
        """What a client that has gone meanwhile asked for is carried out all the same, and counted."""
        return self.response_complete

    def set_result(self, answer: Answer) -> None:
        try:
            self._finish(answer.outcome, answer_wire(answer))
        except Exception:
            log.exception("a request to redeem failed")
            self._crash()

    def _finish(self, outcome: str, wire: Wire) -> None:
        head = wire.head
        self.respond(head.status, head.lines, wire.body)
        if self._services is not None:
            self._services.tally.count(outcome, time.perf_counter() - self._started)

    def _crash(self) -> None:
        if not self.response_complete:
            self._finish(CRASH, CRASHED)
