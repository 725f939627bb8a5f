"""The ASGI application: routes, error handlers, lifespan; nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from issuer.http.admin import audit, batches, docs, generation, health, redemptions, reports, uploads
from issuer.http.campaigns import events as campaign_events
from issuer.http.campaigns import page as campaign_page
from issuer.http.campaigns import routes as campaigns
from issuer.http.campaigns.connect_service import METHOD_PATHS, CouponServiceApp
from issuer.http.campaigns.issue import ISSUE_PATH, IssueRoute
from issuer.http.campaigns.policy import IssuePolicy
from issuer.http.coupons import consume
from issuer.http.coupons import routes as coupons
from issuer.http.coupons.consume import CONSUME_PATH
from issuer.http.coupons.consume_fast_path import ConsumeRoute
from issuer.http.edge.protocol import FastPath
from issuer.http.operations import Operation, PathOperations
from issuer.http.problems.failures import FAILURES
from issuer.http.problems.problem import ProblemError, answer_crash, answer_problem, status_problem
from issuer.http.redeem.route import RedeemRoute
from issuer.http.services import Services, open_services
from issuer.settings import Settings

REDEEM_PATH: Final = "/api/v1/code/redeem"

OPERATIONS: Final[tuple[Operation, ...]] = (
    *uploads.OPERATIONS,
    *batches.OPERATIONS,
    *campaigns.OPERATIONS,
    *campaign_events.OPERATIONS,
    *campaign_page.OPERATIONS,
    *generation.OPERATIONS,
    *redemptions.OPERATIONS,
    *consume.OPERATIONS,
    *coupons.OPERATIONS,
    *reports.OPERATIONS,
    *audit.OPERATIONS,
    *health.OPERATIONS,
    *docs.OPERATIONS,
)
"""Every operation but the redemption itself and the coupon service. Where paths overlap the first one counts."""


class IssuerApp(Starlette):
    """Starlette, but that redemptions pass by its middleware and router."""

    redeem: RedeemRoute
    express: Mapping[bytes, FastPath]
    """What goes the short way from the socket."""

    def end_streams(self) -> None:
        """Ends the requests that would never end by themselves."""
        services: Services | None = self.state.services
        if services is not None:
            services.feeds.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == REDEEM_PATH and scope["method"] == "POST":
            await self.redeem(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> IssuerApp:
    """The application. It starts without Redis and Postgres and answers 503 until they are there."""
    settings = settings or Settings()
    redeem, use, desk = RedeemRoute(settings), ConsumeRoute(settings), IssuePolicy(settings)

    @asynccontextmanager
    async def lifespan(app: IssuerApp) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = redeem.services = use.services = desk.services = services
            try:
                yield
            finally:
                app.state.services = redeem.services = use.services = desk.services = None

    app = IssuerApp(
        routes=make_routes(redeem, CouponServiceApp(desk, settings)),
        exception_handlers={
            ProblemError: answer_problem,
            HTTPException: _answer_http_exception,
            **{kind: _answer_failure(make) for kind, make in FAILURES.items()},
            Exception: answer_crash,
        },
        lifespan=lifespan,
    )
    app.redeem = redeem
    app.express = {
        REDEEM_PATH.encode(): FastPath(redeem.exchange),
        CONSUME_PATH.encode(): FastPath(use.exchange, takes_query=True),
        ISSUE_PATH.encode(): FastPath(IssueRoute(desk).exchange),
    }
    app.state.services = None
    # A redirect would be built from the Host header that the client chose.
    app.router.redirect_slashes = False
    return app


def make_routes(redeem: RedeemRoute, coupons: CouponServiceApp) -> list[Route]:
    """One route for each path, so that 405 can name all of its methods."""
    by_path: dict[str, list[Operation]] = defaultdict(list)
    for operation in OPERATIONS:
        by_path[operation.path].append(operation)
    routes = [Route(path, PathOperations(operations), name=path) for path, operations in by_path.items()]
    calls = [Route(path, coupons, methods=["POST"], name=path) for path in METHOD_PATHS]
    return [Route(REDEEM_PATH, redeem, methods=["POST"], name=REDEEM_PATH), *calls, *routes]


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, no such method, a form that cannot be read."""
    assert isinstance(error, HTTPException)
    return status_problem(error.status_code, error.detail, error.headers).response()


def _answer_failure(make: Callable[[Any], ProblemError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_: Request, error: Exception) -> Response:
        return make(error).response()

    return answer
