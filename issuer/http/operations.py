"""Who may do what over HTTP. A route that says nothing is for admin keys only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from issuer.access.api_keys import ApiKey
from issuer.access.api_keys import Scope as KeyScope
from issuer.access.audit import AUTH_OFF_ACTOR
from issuer.http.edge.client_address import UNKNOWN
from issuer.http.problems.problem import ProblemError, not_ready, status_problem
from issuer.http.services import Services
from issuer.settings import Auth

MISSING_KEY: Final = ProblemError(
    401,
    "missing or unknown api key",
    "unauthorized",
    detail="send the header Authorization: Bearer <API key>",
    headers={"WWW-Authenticate": 'Bearer realm="issuer"'},
)
WRONG_SCOPE: Final = ProblemError(403, "the api key lacks the scope for this", "scope_missing")
BOUND_KEY: Final = ProblemError(403, "the api key is bound to one client", "bound_key")


def ring_not_loaded() -> ProblemError:
    """503 rather than 401: this process has not read the keys yet, so it cannot say that one is unknown."""
    return not_ready("the API keys could not be read yet")


class Access(StrEnum):
    """PUBLIC: everybody. REDEEM, ADMIN: keys with that scope, bound ones for what is theirs; ANY_KEY: with either.

    USE: also public keys. OPERATOR: admin keys that are bound to no client.
    """

    PUBLIC = "public"
    USE = "use"
    REDEEM = "redeem"
    ADMIN = "admin"
    ANY_KEY = "any key"
    OPERATOR = "operator"


MAY_USE: Final = frozenset({KeyScope.REDEEM, KeyScope.PUBLIC})
"""Scopes either of which may use a coupon, or ask whether it could be used."""
_SCOPES: Final = {
    Access.USE: MAY_USE,
    Access.REDEEM: frozenset({KeyScope.REDEEM}),
    Access.ADMIN: frozenset({KeyScope.ADMIN}),
    Access.ANY_KEY: frozenset({KeyScope.REDEEM, KeyScope.ADMIN}),
    Access.OPERATOR: frozenset({KeyScope.ADMIN}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. With `client_id` only what belongs to that client may be shown or changed.

    `key` is None where none is asked for; `address` is what limits count, see `issuer.http.edge.client_address`.
    """

    actor: str
    client_id: UUID | None = None
    key: ApiKey | None = None
    address: str = UNKNOWN

    @property
    def api_key_id(self) -> int:
        return 0 if self.key is None else self.key.id


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request to one operation."""

    request: Request
    services: Services
    caller: Caller


Handler = Callable[[RequestContext], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `max_body_bytes` None: the setting's."""

    method: str
    path: str
    handler: Handler
    access: Access = Access.ADMIN
    upload: bool = False


async def admit(request: Request, services: Services, access: Access) -> Caller:
    """The caller, if the access and the rate limits admit him.

    Raises ProblemError: 429, 401, 403, or 503 while the keys are not known.
    """
    if access is Access.PUBLIC:
        return Caller("anonymous")
    key = None if services.settings.auth is Auth.OFF else _key_of(request, services)
    peer = request.client.host if request.client is not None else None
    address = services.limits.address_of(peer, request.headers.raw)
    await services.limits.admit(key, address)
    if services.settings.auth is Auth.OFF:
        return Caller(AUTH_OFF_ACTOR, address=address)
    if key is None:
        raise MISSING_KEY if services.keys.loaded else ring_not_loaded()
    if not key.scopes & _SCOPES[access]:
        raise WRONG_SCOPE
    if key.client_id is not None and access is Access.OPERATOR:
        raise BOUND_KEY
    return Caller(key.actor, key.client_id, key, address)


def _key_of(request: Request, services: Services) -> ApiKey | None:
    authorization = request.headers.get("authorization", "")
    scheme, _, secret = authorization.partition(" ")
    # Some clients send the key alone.
    return services.keys.find(secret.strip() if scheme.lower() == "bearer" else authorization.strip())


class PathOperations:
    """All methods of one path, as an ASGI application."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = {operation.method: operation for operation in operations}
        self.allow = ", ".join(sorted(self.operations | ({"HEAD": None} if "GET" in self.operations else {})))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        operation = self.operations.get(method)
        if operation is None:
            raise status_problem(405, headers={"Allow": self.allow})
        services: Services | None = scope["app"].state.services
        if services is None:
            raise not_ready("the server is starting or stopping")
        settings = services.settings
        limit = settings.max_upload_bytes if operation.upload else settings.max_body_bytes
        request = Request(scope, _bounded(scope, receive, limit), send)
        caller = await admit(request, services, operation.access)
        response = await operation.handler(RequestContext(request, services, caller))
        await response(scope, receive, send)


def _bounded(scope: Scope, receive: Receive, limit: int) -> Receive:
    """`receive`, but that it raises 413 as soon as the body is, or says it will be, larger than `limit`."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise status_problem(413)
    size = 0

    async def receive_some() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise status_problem(413)
        return message

    return receive_some
