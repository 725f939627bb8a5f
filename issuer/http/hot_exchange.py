"""The frame of the hot routes (redeem, consume, IssueCoupon): the same exchange on the fast path and on the ASGI path.

Every request takes the same steps in the same order, so that refusals have one order on every path (docs/http-api.md):

1. `begin`: find the key, count the request for the rate limits of key and address (429);
2. `proceed`: check credentials and scope (400, 401, 403);
3. the connection passes the body on, or refuses it (413);
4. `receive`, of each product: parse (400), then submit to the engine;
5. `set_result`: the engine has the answer; it is sent and counted.

Each step calls the next one, or returns when a rate limit, the body or the engine must be awaited; a callback continues
then. On the fast path there is no task. On the ASGI path a task receives the body and sends the answer.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import ClassVar, Final

import structlog
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from issuer.access.api_keys import ApiKey, Scope
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.http.auth import check_scopes, find_key
from issuer.http.cross_origin import CrossOrigin
from issuer.http.edge.exchange import Connection, Exchange
from issuer.http.edge.header_fields import HeaderFields, header_fields
from issuer.http.metrics.exposition import CRASH, INVALID
from issuer.http.problems.failures import UNPARSABLE, problem_of
from issuer.http.problems.problem import ProblemError, outcome_problem, status_problem
from issuer.http.security_log import LOGGED
from issuer.http.services import Services
from issuer.http.wire import CRASHED, Wire, prebuilt, problem_wire
from issuer.rate_limits.leases import AdmissionResult, RateLimited

log = structlog.get_logger()

prebuilt(UNPARSABLE)
NOT_READY: Final = prebuilt(outcome_problem(Outcome.NOT_READY))
TOO_LARGE: Final = prebuilt(status_problem(413))


class HotExchange(Exchange):
    """One request to a hot route. `scopes`: a key needs one of them.

    Its route sets `route` and what else it knows of the request: a chain of constructors would take a microsecond.
    """

    __slots__ = ("key", "route", "services", "started")

    scopes: ClassVar[frozenset[Scope]]
    key: ApiKey | None
    route: HotRoute
    services: Services | None
    started: float

    @property
    def peer(self) -> str | None:
        """The address of the peer; None for a socket without addresses."""
        client = self.connection.client
        return client[0] if client else None

    def begin(self) -> None:
        self.started = time.perf_counter()
        self.key = None
        self.services = services = self.route.services
        if services is None:
            self.refuse(NOT_READY)
            return
        try:
            self.key = find_key(services, self.fields)
            if services.limits.passes(self):
                self.proceed(services)
        except Exception as error:
            self.fail(error)

    def enter(self, verdict: AdmissionResult) -> None:
        """Continue when the rate limits, which had to be asked in Redis, have admitted or refused the request."""
        services = self.services
        assert services is not None
        if self.response_complete:
            return
        try:
            if isinstance(verdict, RateLimited):
                raise services.limits.refusal(verdict)
            self.proceed(services)
        except Exception as error:
            self.fail(error)

    def proceed(self, services: Services) -> None:
        """Check the credentials, then ask for the body."""
        key = self.key
        if key is None or key.scopes.isdisjoint(self.scopes):
            refusal = self.access_refusal(services)
            if refusal is not None:
                self.refuse(refusal)
                return
        self.connection.read_body(self)

    def access_refusal(self, services: Services) -> ProblemError | None:
        """Return why a caller without a key, or with one without the scopes, may not use this route; None: it may."""
        return check_scopes(services, self.fields, self.key, self.scopes)

    @abstractmethod
    def receive(self, body: bytes) -> None:
        """Parse the body and submit what it asks for to the engine, with this exchange as the slot.

        What it raises is answered by `fail`.
        """

    def done(self) -> bool:
        """Whether the request is answered. One whose client closed the connection is carried out and counted."""
        return self.response_complete

    def set_result(self, answer: Answer) -> None:
        """Send the engine's answer."""
        try:
            self.finish(answer.outcome, self.answer_wire(answer))
        except Exception as error:
            self.fail(error)

    @abstractmethod
    def answer_wire(self, answer: Answer) -> Wire:
        """Return what is sent for an answer of the engine."""

    def problem_wire(self, problem: ProblemError) -> Wire:
        """Return what is sent for a problem."""
        return problem_wire(problem)

    def crash_wire(self) -> Wire:
        """Return what is sent after an unforeseen exception."""
        return CRASHED

    def finish(self, outcome: str, wire: Wire) -> None:
        """Send the answer and count the request under `outcome`."""
        cross_origin = self.route.cross_origin
        if cross_origin is not None:
            wire = cross_origin.marked(wire, self.fields, self.key)
        self.connection.respond(self, wire)
        services = self.services
        if services is not None:
            services.tally.count(outcome, time.perf_counter() - self.started)

    def refuse(self, problem: ProblemError) -> None:
        """Answer a request that does not reach the engine."""
        if problem.status in LOGGED:
            self.log_refusal(problem)
        self.finish(INVALID, self.problem_wire(problem))

    def log_refusal(self, problem: ProblemError) -> None:
        """Write a refusal to the security log."""
        services = self.services
        assert services is not None
        services.security.refused(problem, "POST", self.route.path, self.peer, self.headers, self.key)

    def fail(self, error: Exception) -> None:
        """Answer with the problem that an exception stands for. An unforeseen one is logged and answered with a 500."""
        problem = problem_of(error)
        if problem is None:
            log.error("request failed", path=self.route.path, exc_info=error)
        if self.response_complete:
            return
        if problem is None:
            self.finish(CRASH, self.crash_wire())
        else:
            self.refuse(problem)


class HotRoute(ABC):
    """A hot route of one process. Until the lifespan has set `services`, it answers 503."""

    path: ClassVar[str]

    def __init__(self) -> None:
        self.services: Services | None = None
        self.cross_origin: CrossOrigin | None = None

    @abstractmethod
    def exchange(self, connection: Connection, fields: HeaderFields) -> HotExchange | None:
        """Return the exchange of a request; None: the request is for another application behind the same path."""

    async def serve(self, scope: AsgiScope, receive: Receive, send: Send) -> bool:
        """Serve a request that takes the ASGI path. False: it is for another application, and nothing was received."""
        connection = AsgiConnection(scope)
        exchange = self.exchange(connection, header_fields(connection.headers))
        if exchange is None:
            return False
        exchange.begin()
        if connection.wire is None and not connection.is_admitted:
            await connection.change()
        services = exchange.services
        if connection.wire is None and services is not None:
            try:
                await _receive_body(exchange, receive, services.settings.max_body_bytes)
            except DisconnectedError:
                # Nothing was submitted, and nothing can be sent.
                exchange.disconnected = True
                return True
        while (wire := connection.wire) is None:
            await connection.change()
        start = {"type": "http.response.start", "status": wire.head.status, "headers": wire.head.headers}
        await send(start)
        await send({"type": "http.response.body", "body": wire.body})
        return True

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if not await self.serve(scope, receive, send):
            raise status_problem(404)


class DisconnectedError(Exception):
    """The client closed the connection before its request was complete."""


class AsgiConnection:
    """The connection of an exchange on the ASGI path.

    `is_admitted`: the exchange wants its body; `wire`: its answer. One of them is set next; `change` waits for it.
    """

    def __init__(self, scope: AsgiScope) -> None:
        self._scope = scope
        self.headers = scope["headers"]
        self.client: tuple[str, int] | None = scope.get("client")
        self.is_admitted = False
        self.wire: Wire | None = None
        self._changed: asyncio.Future[None] | None = None

    @property
    def url(self) -> bytes:
        path: str = self._scope["path"]
        query: bytes = self._scope["query_string"]
        return path.encode() + (b"?" + query if query else b"")

    def read_body(self, exchange: Exchange) -> None:
        self.is_admitted = True
        self._wake()

    def respond(self, exchange: Exchange, wire: Wire) -> None:
        if exchange.response_complete:
            raise RuntimeError("answered twice")
        exchange.response_started = exchange.response_complete = True
        self.wire = wire
        self._wake()

    def change(self) -> asyncio.Future[None]:
        """Return what is done when the exchange has changed the connection."""
        self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def _wake(self) -> None:
        # Done already when the task of the request was cancelled.
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


async def _receive_body(exchange: HotExchange, receive: Receive, max_bytes: int) -> None:
    """Pass the whole body to the exchange, or refuse one that is larger than `max_bytes`. Raises DisconnectedError."""
    body, more = b"", True
    while more and len(body) <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if exchange.response_complete:
        # The time-out of the caller has passed meanwhile.
        return
    try:
        if len(body) > max_bytes:
            exchange.refuse(TOO_LARGE)
        else:
            exchange.receive(body)
    except Exception as error:
        exchange.fail(error)
