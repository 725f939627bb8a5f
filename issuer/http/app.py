"""The ASGI application: routes, error handlers, lifespan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from issuer.http.admin import (
    audit,
    batches,
    clients,
    dead_letters,
    finding,
    generation,
    health,
    keys,
    operators,
    reconciliations,
    recoveries,
    redemptions,
    reports,
    series,
    uploads,
)
from issuer.http.campaigns import events as campaign_events
from issuer.http.campaigns import page as campaign_page
from issuer.http.campaigns import routes as campaigns
from issuer.http.campaigns.connect_service import METHOD_PATHS, CouponServiceApp
from issuer.http.campaigns.issue import ISSUE_PATH, IssueRoute
from issuer.http.campaigns.policy import IssuePolicy
from issuer.http.console.operations import CONSOLE
from issuer.http.coupons import consume
from issuer.http.coupons import routes as coupons
from issuer.http.coupons.consume_route import CONSUME_PATH, ConsumeRoute
from issuer.http.cross_origin import ROUTES, CrossOrigin
from issuer.http.docs import routes as docs
from issuer.http.edge.exchange import FastPath
from issuer.http.hot_exchange import HotRoute
from issuer.http.loyalty import balance_page
from issuer.http.loyalty.fealty import admin_page as fealty_admin
from issuer.http.loyalty.fealty import routes as fealty
from issuer.http.loyalty.operations import LOYALTY
from issuer.http.loyalty.till import counter, sign_in, till_acts, till_purchase
from issuer.http.member_pages import routes as member_pages
from issuer.http.operation_exchange import fast_operations
from issuer.http.operations import Operation, PathOperations
from issuer.http.pages import assets, language, start
from issuer.http.pages.errors import error_page, shows_pages
from issuer.http.problems.failures import FAILURES
from issuer.http.problems.problem import ProblemError, crash_problem, forget_raise, status_problem
from issuer.http.redeem.redemption_route import REDEMPTIONS_PATH, RedemptionRoute
from issuer.http.redeem.route import REDEEM_PATH, RedeemRoute
from issuer.http.request_path import routed_path, with_and_without_slash
from issuer.http.services import Services, open_services
from issuer.settings import Settings

OPERATIONS: Final[tuple[Operation, ...]] = (
    *uploads.OPERATIONS,
    *batches.OPERATIONS,
    *clients.OPERATIONS,
    *campaigns.OPERATIONS,
    *campaign_events.OPERATIONS,
    *campaign_page.OPERATIONS,
    *generation.OPERATIONS,
    *redemptions.OPERATIONS,
    *consume.OPERATIONS,
    *coupons.OPERATIONS,
    *LOYALTY,
    *fealty.OPERATIONS,
    *fealty_admin.OPERATIONS,
    *reports.OPERATIONS,
    *audit.OPERATIONS,
    *keys.OPERATIONS,
    *operators.OPERATIONS,
    *recoveries.OPERATIONS,
    *dead_letters.OPERATIONS,
    *series.OPERATIONS,
    *finding.OPERATIONS,
    *reconciliations.OPERATIONS,
    *health.OPERATIONS,
    *docs.OPERATIONS,
    *start.OPERATIONS,
)
"""Every operation but redeem and the coupon service. Where paths overlap, the first one counts."""


FILES: Final = assets.OPERATIONS
"""What pages load. It is no part of the API."""

PAGES: Final[tuple[Operation, ...]] = (
    *language.OPERATIONS,
    *member_pages.OPERATIONS,
    *counter.OPERATIONS,
    *sign_in.OPERATIONS,
    *till_acts.OPERATIONS,
    *till_purchase.OPERATIONS,
    *balance_page.OPERATIONS,
)
"""Pages with forms, for people. They are no part of the API either."""


class IssuerApp(Starlette):
    """Starlette with hot routes, whose requests bypass its middleware and its router."""

    hot_routes: Mapping[str, HotRoute]
    fast_paths: Mapping[bytes, FastPath]
    """Requests that take the fast path, by path."""
    cross_origin: CrossOrigin | None

    def end_streams(self) -> None:
        """End the requests that do not end by themselves."""
        services: Services | None = self.state.services
        if services is not None:
            services.feeds.close()
            services.now.close()

    def count_refusal(self, kind: str, reason: str) -> None:
        """Count a connection that was refused at the socket."""
        services: Services | None = self.state.services
        if services is not None:
            services.tally.refuse_slot(kind, reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            cross_origin = self.cross_origin
            try:
                path = scope["path"] = routed_path(scope["raw_path"])
                if cross_origin is not None and ROUTES.fullmatch(path) is None:
                    cross_origin = None
                if cross_origin is not None and await cross_origin.preflight(scope, send, self.state.services):
                    return
            except ProblemError as problem:
                await problem.response()(scope, receive, send)
                return
            if scope["method"] == "POST":
                route = self.hot_routes.get(path)
                if route is not None and await route.serve(scope, receive, send):
                    return
            if cross_origin is not None:
                send = cross_origin.marking(send, scope, self.state.services)
        await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> IssuerApp:
    """Return the application. It starts without Redis and Postgres and answers 503 until they are available."""
    settings = settings or Settings()
    policy = IssuePolicy()
    redeem, consume, issue, redemption = RedeemRoute(), ConsumeRoute(), IssueRoute(policy), RedemptionRoute()
    hot_routes = (redeem, consume, issue, redemption)
    coupon_service = CouponServiceApp(policy, settings)

    @asynccontextmanager
    async def lifespan(app: IssuerApp) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            _share(services)
            try:
                yield
            finally:
                # Before the services close: a request that arrives from now on is a 503.
                _share(None)

    def _share(services: Services | None) -> None:
        app.state.services = services
        coupon_service.services = services
        for route in hot_routes:
            route.services = services

    app = IssuerApp(
        routes=make_routes(redeem, redemption, coupon_service, CONSOLE if settings.has_console else ()),
        exception_handlers={
            ProblemError: _answer_problem,
            HTTPException: _answering(_http_problem),
            **{kind: _answering(make) for kind, make in FAILURES.items()},
            # The response does not reveal the cause; the log has it.
            Exception: _answering(crash_problem),
        },
        lifespan=lifespan,
    )
    app.hot_routes = {path: route for route in hot_routes for path in _spelled(route.path)}
    fast_paths = {
        REDEEM_PATH: FastPath(redeem.exchange),
        CONSUME_PATH: FastPath(consume.exchange, takes_query=True),
        ISSUE_PATH: FastPath(issue.exchange),
        REDEMPTIONS_PATH: FastPath(redemption.exchange),
    }
    app.fast_paths = {
        **{spelled.encode(): fast_path for path, fast_path in fast_paths.items() for spelled in _spelled(path)},
        **fast_operations(OPERATIONS, lambda: app.state.services),
    }
    app.cross_origin = CrossOrigin.of(settings)
    for route in hot_routes:
        route.cross_origin = app.cross_origin if ROUTES.fullmatch(route.path) else None
    app.state.services = None
    # A redirect would be built from the Host header, which the client chooses.
    app.router.redirect_slashes = False
    return app


def make_routes(
    redeem: RedeemRoute,
    redemption: RedemptionRoute,
    coupon_service: CouponServiceApp,
    console: Sequence[Operation] = (),
) -> list[Route]:
    """Return one route for each path, so that a 405 can name all of its methods."""
    by_path: dict[str, list[Operation]] = defaultdict(list)
    for operation in (*OPERATIONS, *FILES, *PAGES, *console):
        by_path[operation.path].append(operation)
    routes = [
        *_posted(REDEEM_PATH, redeem),
        *_posted(REDEMPTIONS_PATH, redemption),
        *(route for path in METHOD_PATHS for route in _posted(path, coupon_service)),
    ]
    for path, operations in by_path.items():
        is_lenient = any(operation.lenient for operation in operations)
        methods = PathOperations(operations)
        routes += (Route(spelled, methods) for spelled in (with_and_without_slash(path) if is_lenient else (path,)))
    return routes


def _posted(path: str, app: ASGIApp) -> Iterator[Route]:
    """Yield the routes of a path that is no operation."""
    for spelled in _spelled(path):
        yield Route(spelled, app, methods=["POST"])


def _spelled(path: str) -> tuple[str, ...]:
    """Return the spellings of the path of a hot route: a predecessor's path also with its other end."""
    return (path,) if path == REDEMPTIONS_PATH else with_and_without_slash(path)


def _show(request: Request, problem: ProblemError) -> Response:
    """Return the answer that shows a problem: a page where a person has opened one."""
    return error_page(request, problem) if shows_pages(request) else problem.response()


async def _answer_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise TypeError(f"not a problem: {error!r}")
    forget_raise(error)
    return _show(request, error)


def _http_problem(error: HTTPException) -> ProblemError:
    """Return the problem for what Starlette itself refuses: an unknown path or method, a form that cannot be read."""
    return status_problem(error.status_code, error.detail, error.headers)


def _answering(make: Callable[[Any], ProblemError]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return _show(request, make(error))

    return answer
