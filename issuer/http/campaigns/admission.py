"""Calls that the Connect library serves: their admission, and how what they raise is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from issuer.access.api_keys import ApiKey
from issuer.http.auth import SCOPES, Access, check_scopes, find_key, missing_key
from issuer.http.campaigns.answers import CRASHED, Failure
from issuer.http.edge.header_fields import HeaderFields, Headers
from issuer.http.limiting.fair_slots import Tenant, tenant_of
from issuer.http.problems.failures import problem_of
from issuer.http.problems.problem import ProblemError, forget_raise, not_ready
from issuer.http.security_log import LOGGED
from issuer.http.services import Services

log = structlog.get_logger()


class CallFailedError(Exception):
    """The failure that ends a call."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@contextmanager
def failures_answered(ctx: RequestContext[Any, Any]) -> Iterator[None]:
    """Turn exceptions into what the library answers. An unforeseen one is logged and reveals nothing to the caller."""
    try:
        yield
    except ConnectError:
        raise
    except Exception as error:
        problem = problem_of(error)
        if isinstance(error, CallFailedError):
            failure = error.failure
        elif problem is not None:
            failure = Failure.of(problem)
            CURRENT_CALL.get().log_refusal(problem, ctx.method.name)
        else:
            log.exception("a method of the coupon service failed", method=ctx.method.name)
            failure = CRASHED
        for name, value in failure.headers:
            ctx.response_headers[name] = value
        if isinstance(error, ProblemError):
            forget_raise(error)
        raise ConnectError(failure.code, failure.message) from None


@dataclass(slots=True)
class AdmittedCall:
    """One call on its way through the library. `services`, `key` and `tenant` are set when it is admitted.

    `until_sent` ends when the answer was sent: memory and slots are held as long.
    """

    peer: str | None
    headers: Headers
    fields: HeaderFields
    services: Services | None = None
    key: ApiKey | None = None
    tenant: Tenant = ()
    until_sent: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def admitted(self) -> tuple[Services, ApiKey | None]:
        assert self.services is not None
        return self.services, self.key

    def log_refusal(self, problem: ProblemError, method: str) -> None:
        """Write the problem to the security log if it is a refusal of the caller."""
        if problem.status in LOGGED and self.services is not None:
            route = f"/coupon.CouponService/{method}"
            self.services.security.refused(problem, "POST", route, self.peer, self.headers, self.key)

    def require(self, access: Access) -> None:
        """Raise ProblemError unless the key has one of the scopes of `access`, or keys are switched off."""
        services, key = self.admitted
        refusal = check_scopes(services, self.fields, key, SCOPES[access])
        if refusal is not None:
            raise refusal


CURRENT_CALL: Final[ContextVar[AdmittedCall]] = ContextVar("call")
"""The call that is being served: the library passes neither address nor headers on as they were."""


class AdmissionInterceptor:
    """Admission of calls before the library reads their bodies: rate limits, then credentials, as on every route."""

    def __init__(self, services: Callable[[], Services | None]) -> None:
        self._services = services

    async def on_start(self, ctx: RequestContext[Any, Any]) -> None:
        with failures_answered(ctx):
            call, services = CURRENT_CALL.get(), self._services()
            if services is None:
                raise not_ready()
            call.services, call.key = services, find_key(services, call.fields)
            address = services.limits.address_of(call.peer, call.headers)
            call.tenant = tenant_of(call.key, address)
            await services.limits.admit(call.key, address)
            if call.key is None and b"authorization" in call.fields:
                refusal = missing_key(services, call.fields)
                if refusal is not None:
                    raise refusal

    async def on_end(self, token: None, ctx: RequestContext[Any, Any], error: Exception | None, /) -> None:
        return
