"""Operations: one method of one path each, with the access it needs. The default is admin keys only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from issuer.http.answered import AnsweredError
from issuer.http.auth import Access, Caller, admit, find_key
from issuer.http.basic_auth import BASIC_NEEDED, as_bearer
from issuer.http.edge.header_fields import scope_fields
from issuer.http.edge.limits import MAX_DELIVERY_BYTES
from issuer.http.fields import check_query, query_flag
from issuer.http.idempotency import (
    AlreadyAnsweredError,
    DryAct,
    DryRunError,
    Idempotency,
    KeyedAct,
    read_idempotency_key,
    replay,
    request_digest,
)
from issuer.http.problems.failures import problem_of
from issuer.http.problems.problem import ProblemError, not_ready, status_problem
from issuer.http.same_origin import check_origin
from issuer.http.security_log import is_logged
from issuer.http.services import Services
from issuer.settings import Settings

Result = TypeVar("Result")
DRY_RUN: Final = "dry_run"
"""The query parameter of a write that is only tried, and with a hyphen the header of its answer."""


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request to one operation."""

    request: Request
    services: Services
    caller: Caller
    idempotency: Idempotency
    dry_run: bool = False
    end_slot: Callable[[], Awaitable[None]] = _nothing
    """Release the slot of this request before its handler is done: what follows needs no connection of its own."""

    def act(self, show: Callable[[Result], Awaitable[Response]]) -> KeyedAct[Result] | DryAct[Result]:
        """Return the act of this request. `show` returns the response to its result."""
        return DryAct(show) if self.dry_run else KeyedAct(self.idempotency, show)

    @property
    def address(self) -> str:
        """The address of the client, as limits count it; also where no key is needed."""
        peer = self.request.client
        return self.services.limits.address_of(None if peer is None else peer.host, self.request.headers.raw)


Handler = Callable[[RequestContext], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    A POST keeps its answer for an Idempotency-Key: its handler carries out `context.act(…)`. `hot`: the script keeps
    it. `upload`: the body may be large, and the handler itself sets the digest of the request and calls `check`.
    `query`: the parameters that the query may have. `lenient`: the path of a predecessor, whose clients must not have
    to change: unknown parameters and fields are ignored, and the path may end with a slash or without one.
    `tries`: with `?dry_run=true` it changes nothing and is answered as if it had: its handler uses `context.act(…)`.
    `page`: people open it, and those who pass its link on append parameters, which are ignored; its refusals are pages
    too, and no answer of it is kept.
    `takes_slot`: requests share the connections of the pool, so each holds a slot of operations until its handler is
    done. False for what may take long, needs no Postgres, or must be answered whatever the others do.
    `gathered`: the transaction of the act, which many requests share, looks for their kept answers: none is looked for
    before.
    `delivery`: a shop sends it, signed instead of with a key; it may be large, and counts once by an id of its own.
    `basic`: also takes Basic credentials, which browsers keep, so that no page of another site may have anything
    changed (`issuer.http.same_origin`); no answer is kept, since the predecessor's routes have keys of their own.
    """

    method: str
    path: str
    handler: Handler
    access: Access = Access.ADMIN
    upload: bool = False
    query: tuple[str, ...] = ()
    lenient: bool = False
    page: bool = False
    takes_slot: bool = True
    hot: bool = False
    delivery: bool = False
    gathered: bool = False
    tries: bool = False
    basic: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """All parameters that the query may have."""
        return (*self.query, DRY_RUN) if self.tries else self.query

    @property
    def keeps_answers(self) -> bool:
        return self.method == "POST" and not (self.hot or self.page or self.delivery or self.basic)

    def max_bytes(self, settings: Settings) -> int:
        """Return the largest body of a request."""
        if self.delivery:
            return max(settings.max_body_bytes, MAX_DELIVERY_BYTES)
        return settings.max_upload_bytes if self.upload else settings.max_body_bytes


class PathOperations:
    """All methods of one path, as an ASGI application."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.path = operations[0].path
        self.operations = {operation.method: operation for operation in operations}
        self.is_page = any(operation.page for operation in operations)
        self.allow = ", ".join(sorted(self.operations | ({"HEAD": None} if "GET" in self.operations else {})))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = self.operations.get(method)
        if operation is None:
            raise status_problem(405, headers={"Allow": self.allow})
        services: Services | None = scope["app"].state.services
        if services is None:
            raise not_ready("the server is starting or stopping")
        if operation.basic:
            scope = {**scope, "headers": as_bearer(scope["headers"])}
        try:
            await self._serve(operation, services, scope, receive, send)
        except Exception as error:
            problem = problem_of(error)
            if problem is not None and is_logged(problem):
                log_refusal(services, problem, self.path, scope)
            if operation.basic and problem is not None and problem.status == 401:
                raise BASIC_NEEDED from error
            raise

    async def _serve(
        self, operation: Operation, services: Services, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = Request(scope, _bounded(receive, operation.max_bytes(services.settings)), send)
        response = await serve_operation(operation, request, services)
        await response(scope, receive, send)


async def serve_operation(operation: Operation, request: Request, services: Services) -> Response:
    """Return the answer to a request that is not admitted yet. Raises what it is refused with."""
    caller = await admit(request, services, operation.access)
    # After the admission: a caller without a valid key is a 401, whatever the size of its body.
    refuse_announced(request.scope, operation.max_bytes(services.settings))
    if operation.basic and operation.method != "GET":
        check_origin(request)
    if not operation.takes_slot:
        return await _answer(operation, request, services, caller, _nothing)
    async with AsyncExitStack() as slot:
        await slot.enter_async_context(services.operation(caller.tenant))
        return await _answer(operation, request, services, caller, slot.aclose)


def log_refusal(services: Services, problem: ProblemError, route: str, scope: Scope) -> None:
    """Write the refusal of a request on the ASGI path to the security log. `route`: the template of its path."""
    headers, client = scope["headers"], scope.get("client")
    key = find_key(services, scope_fields(scope))
    services.security.refused(problem, scope["method"], route, client[0] if client else None, headers, key)


async def _digest(request: Request) -> bytes:
    """Return the digest of a request. The boundary of a form is another one in every request, so it is left out."""
    scope, body = request.scope, await request.body()
    media_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"").lower().strip(b" \t")
    if b";" in media_type:
        media_type, options = parse_options_header(request.headers["content-type"])
        if boundary := options.get(b"boundary"):
            body = body.replace(boundary, b"")
    return request_digest(scope["path"].rstrip("/").encode(), scope["query_string"], media_type, body)


async def _answer(
    operation: Operation,
    request: Request,
    services: Services,
    caller: Caller,
    end_slot: Callable[[], Awaitable[None]],
) -> Response:
    """Return the response of the handler, or the one that is kept for the request's Idempotency-Key."""
    if not operation.page and not operation.delivery:
        check_query(request, operation.parameters, lenient=operation.lenient)
    dry_run = operation.tries and bool(request.scope["query_string"]) and query_flag(request, DRY_RUN)
    key = read_idempotency_key(scope_fields(request.scope)) if operation.keeps_answers else None
    if dry_run:
        # What is only tried keeps no answer, so that its key is free for the request that is meant.
        key = None
    route = f"{operation.method} {operation.path}"
    idempotency = Idempotency(services.stores.postgres, caller.client_id, route, key)
    try:
        if key is not None and not operation.upload:
            idempotency.digest = await _digest(request)
            if not operation.gathered:
                await idempotency.check()
        response = await operation.handler(RequestContext(request, services, caller, idempotency, dry_run, end_slot))
    except AlreadyAnsweredError as kept:
        return replay(kept.answer)
    except DryRunError as tried:
        response = tried.response
    except AnsweredError as done:
        return done.response
    if dry_run:
        response.headers["dry-run"] = "true"
    if key is not None and response.status_code < 300 and not idempotency.is_kept:
        raise RuntimeError(f"{route} has not kept its answer")
    return response


def refuse_announced(scope: Scope, limit: int) -> None:
    """Raise ProblemError (413) for a request that announces a body larger than `limit` bytes."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise status_problem(413)


def _bounded(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that raises ProblemError (413) as soon as the body is larger than `limit` bytes."""
    size = 0

    async def receive_some() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise status_problem(413)
        return message

    return receive_some
