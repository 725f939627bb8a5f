"""Credentials: the API key of a request, and what it may be used for. One implementation for every route.

A request sends its key as `Authorization: Bearer KEY`, the scheme in any case, or as the bare key, which is the form
that clients of the predecessors use. Any other scheme is a 401. Two Authorization headers are a 400: a proxy and the
client may each have set one, and the wrong choice between them would give a request the rights of another caller.

A refusal comes after the rate limits, which count the request whether or not its key is valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final
from uuid import UUID

from starlette.requests import Request

from issuer.access.api_keys import ApiKey, Scope
from issuer.access.audit import AUTH_OFF_ACTOR
from issuer.http.edge.client_address import UNKNOWN
from issuer.http.edge.header_fields import REPEATED, HeaderFields, scope_fields
from issuer.http.limiting.fair_slots import Tenant, tenant_of
from issuer.http.problems.problem import ProblemError, not_ready
from issuer.http.services import Services
from issuer.http.wire import prebuilt


def _unauthorized(detail: str) -> ProblemError:
    headers = {"WWW-Authenticate": 'Bearer realm="issuer"'}
    return prebuilt(ProblemError(401, "missing or unknown api key", "unauthorized", detail=detail, headers=headers))


MISSING_KEY: Final = _unauthorized("send the header Authorization: Bearer <API key>")
UNKNOWN_KEY: Final = _unauthorized(
    "the key in the header Authorization is not valid here: it is mistyped, revoked or of another installation"
)
WRONG_SCHEME: Final = _unauthorized("the header Authorization has another scheme: send Authorization: Bearer <API key>")
BOUND_KEY: Final = ProblemError(403, "the api key is bound to one client", "bound_key")
MANY_CREDENTIALS: Final = prebuilt(
    ProblemError(
        400,
        "more than one Authorization header",
        "multiple_credentials",
        detail="send the header Authorization once; a proxy between client and server may have added another",
    )
)
KEYS_NOT_LOADED: Final = prebuilt(not_ready("the API keys could not be read yet"))
"""503 rather than 401: this process has not read the keys yet, so it does not know which keys are valid."""


class Access(StrEnum):
    """Which keys an operation accepts.

    PUBLIC: no key is needed. REDEEM, ADMIN: keys with that scope, and a bound key for its own client only. ANY_KEY:
    keys with either of them. USE: keys with the scope redeem or public. OPERATOR: admin keys that are bound to no
    client.
    """

    PUBLIC = "public"
    USE = "use"
    REDEEM = "redeem"
    ADMIN = "admin"
    ANY_KEY = "any key"
    OPERATOR = "operator"


SCOPES: Final[dict[Access, frozenset[Scope]]] = {
    Access.USE: frozenset({Scope.REDEEM, Scope.PUBLIC}),
    Access.REDEEM: frozenset({Scope.REDEEM}),
    Access.ADMIN: frozenset({Scope.ADMIN}),
    Access.ANY_KEY: frozenset({Scope.REDEEM, Scope.ADMIN}),
    Access.OPERATOR: frozenset({Scope.ADMIN}),
}
"""The scopes of which a key needs one. An operation with Access.PUBLIC reads no key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of an operation. With `client_id` only what belongs to that client may be shown or changed.

    `key` is None where no key is needed; `address` is what rate limits count (see `issuer.http.edge.client_address`).
    """

    actor: str
    client_id: UUID | None = None
    key: ApiKey | None = None
    address: str = UNKNOWN

    @property
    def tenant(self) -> Tenant:
        """The tenant that holds the slots of this caller's work."""
        return tenant_of(self.key, self.address)


def find_key(services: Services, fields: HeaderFields) -> ApiKey | None:
    """Return the valid key that a request sends; None: it sends none, or an unknown one, or keys are switched off."""
    authorization = fields.get(b"authorization")
    if authorization is None or not services.checks_keys:
        return None
    key = services.keys.recall(authorization)
    if key is not None:
        return key
    if authorization[:7].lower() == b"bearer ":
        authorization = authorization[7:].strip(b" \t")
    # A bare key. A key contains no space, so a value with another scheme is never one.
    return services.keys.find(authorization)


def missing_key(services: Services, fields: HeaderFields) -> ProblemError | None:
    """Return why a request has no key, for a request of which `find_key` found none; None: keys are switched off."""
    if not services.checks_keys:
        return None
    if fields.get(b"authorization") is REPEATED:
        return MANY_CREDENTIALS
    if not services.keys.loaded:
        return KEYS_NOT_LOADED
    authorization = fields.get(b"authorization")
    if authorization is None:
        return MISSING_KEY
    scheme, space, _ = authorization.partition(b" ")
    return WRONG_SCHEME if space and scheme.lower() != b"bearer" else UNKNOWN_KEY


@cache
def wrong_scope(key: frozenset[Scope], needed: frozenset[Scope]) -> ProblemError:
    """Return the refusal of a key with these scopes where it needs another one: built once for each pair of sets."""
    detail = f"it needs the scope {' or '.join(sorted(needed))}, and the key has {' and '.join(sorted(key))}"
    return prebuilt(ProblemError(403, "the api key lacks the scope for this", "scope_missing", detail=detail))


def check_scopes(
    services: Services, fields: HeaderFields, key: ApiKey | None, scopes: frozenset[Scope]
) -> ProblemError | None:
    """Return the refusal of a request with this `key`, as `find_key` found it; None: it has one of the `scopes`."""
    if key is None:
        return missing_key(services, fields)
    return wrong_scope(key.scopes, scopes) if key.scopes.isdisjoint(scopes) else None


async def admit(request: Request, services: Services, access: Access) -> Caller:
    """Return the caller of a request that the rate limits and its key admit, in this order.

    Raises ProblemError: 429, 400, 401, 403, or 503 while the keys are unknown.
    """
    scope = request.scope
    # Not `request.client`, which makes a named tuple of it.
    client = scope.get("client")
    peer = None if client is None else client[0]
    address = services.limits.address_of(peer, scope["headers"])
    if access is Access.PUBLIC:
        return Caller("anonymous", address=address)
    fields = scope_fields(scope)
    key = find_key(services, fields)
    await services.limits.admit(key, address)
    refusal = check_scopes(services, fields, key, SCOPES[access])
    if refusal is not None:
        raise refusal
    if key is None:
        return Caller(AUTH_OFF_ACTOR, address=address)
    if key.client_id is not None and access is Access.OPERATOR:
        raise BOUND_KEY
    return Caller(key.actor, key.client_id, key, address)
