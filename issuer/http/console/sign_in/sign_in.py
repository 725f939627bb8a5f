"""/console/sign-in: sign in with an API key, or with a one-time link; sign out.

The page that a link opens has a button, and only the button uses the link: what opens it may be a preview of a message.
Over plain HTTP beyond this machine there is no sign-in: every device on the way could read the key and the cookie.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from issuer.access import audit
from issuer.http.auth import Access
from issuer.http.console.console_visit import HOME, SIGN_IN, console_path, open_console
from issuer.http.console.layout.navigation import navigation_for
from issuer.http.console.principal import Principal, SignedInBy, owner_of, principal_of_key, read_principal
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.cookies import is_plain
from issuer.http.pages.page import LocalizedPage
from issuer.http.pages.visit import PageVisit, open_visit
from issuer.http.problems.problem import ProblemError
from issuer.operators.links import use_link
from issuer.operators.role import Role
from issuer.sessions.session_store import SessionKind
from issuer.storage.postgres import unavailable_translated

LINK_PATH: Final = "/console/link/{token}"
SIGN_OUT: Final = "/console/sign-out"
_PAGE: Final = LocalizedPage("console/sign_in/sign_in.html", forms=True)
_LINK_PAGE: Final = LocalizedPage("console/sign_in/link.html", forms=True)
_INSECURE_PAGE: Final = LocalizedPage("console/sign_in/insecure.html")
WRONG_KEY: Final = ProblemError(401, "the key does not open the console", "unauthorized")
WRONG_LINK: Final = ProblemError(401, "the link is unknown, used or expired", "unauthorized")


def is_secure(request: Request) -> bool:
    """Return whether what the browser sends reaches this server, or the proxy before it, unread."""
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme)
    return scheme == "https" or is_plain(request)


async def get_sign_in(context: RequestContext) -> Response:
    visit = await open_visit(context, SessionKind.CONSOLE)
    if visit.session is not None and await read_principal(context.services, visit.session) is not None:
        return visit.redirect(_next(context.request.query_params.get("next")))
    return _show(visit, back=context.request.query_params.get("next"))


async def post_sign_in(context: RequestContext) -> Response:
    """Sign in with an API key, which the browser does not keep."""
    visit = await open_visit(context, SessionKind.CONSOLE)
    form = await visit.form()
    if not is_secure(context.request):
        return _show(visit)
    services, back = context.services, form.get("next")
    key = services.keys.find(form.get("key", "")) if services.checks_keys else None
    principal = None if key is None else principal_of_key(key)
    if key is None or principal is None:
        _log_refusal(context, WRONG_KEY)
        return _show(visit, 403, back=back, wrong="key")
    async with unavailable_translated(), services.stores.postgres.acquire() as connection, connection.transaction():
        await visit.sign_in(connection, owner_of(SignedInBy.KEY, key.id))
        await audit.record(
            connection, actor=principal.actor, action="console.sign-in", subject="console", detail=_way(principal)
        )
    return visit.redirect(_next(back))


async def get_link(context: RequestContext) -> Response:
    visit = await open_visit(context, SessionKind.CONSOLE)
    if not is_secure(context.request):
        return _show(visit)
    return visit.page(_LINK_PAGE, wrong=False)


async def post_link(context: RequestContext) -> Response:
    visit = await open_visit(context, SessionKind.CONSOLE)
    await visit.form()
    if not is_secure(context.request):
        return _show(visit)
    postgres, token = context.services.stores.postgres, context.request.path_params["token"]
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        made_by = await use_link(connection, token)
        if made_by is not None:
            principal = Principal("", f"link:{made_by}", Role.ADMIN)
            await visit.sign_in(connection, owner_of(SignedInBy.LINK, made_by))
            await audit.record(
                connection, actor=principal.actor, action="console.sign-in", subject="console", detail=_way(principal)
            )
    if made_by is None:
        _log_refusal(context, WRONG_LINK)
        return visit.page(_LINK_PAGE, 403, wrong=True)
    return visit.redirect(HOME)


async def post_sign_out(context: RequestContext) -> Response:
    visit = await open_visit(context, SessionKind.CONSOLE)
    await visit.form()
    await visit.sign_out()
    return visit.redirect(SIGN_IN)


async def get_home(context: RequestContext) -> Response:
    """Lead to the first place of the console that the visitor may open."""
    visit = await open_console(context)
    return visit.redirect(navigation_for(visit)[0].places[0].path)


def _show(visit: PageVisit, status: int = 200, *, back: str | None = None, wrong: str = "") -> Response:
    """Return the form, or the page that says why there is none."""
    request = visit.context.request
    if not is_secure(request):
        return _INSECURE_PAGE.response(request, 403, port=request.url.port or 80)
    path = console_path(back or "")
    return visit.page(_PAGE, status, back=path, wrong=wrong, takes_keys=visit.context.services.checks_keys)


def _next(back: str | None) -> str:
    """Return where a sign-in leads: a page of the console."""
    path = console_path(back or "")
    return HOME if path is None or path.startswith(SIGN_IN) else path


def _way(principal: Principal) -> dict[str, str]:
    return {"role": str(principal.role)}


def _log_refusal(context: RequestContext, problem: ProblemError) -> None:
    request = context.request
    peer = None if request.client is None else request.client.host
    route = SIGN_IN if problem is WRONG_KEY else LINK_PATH
    context.services.security.refused(problem, "POST", route, peer, request.headers.raw, None)


OPERATIONS: Final = (
    Operation("GET", SIGN_IN, get_sign_in, Access.PUBLIC, page=True),
    Operation("POST", SIGN_IN, post_sign_in, Access.PUBLIC, page=True),
    Operation("GET", LINK_PATH, get_link, Access.PUBLIC, page=True),
    Operation("POST", LINK_PATH, post_link, Access.PUBLIC, page=True),
    Operation("POST", SIGN_OUT, post_sign_out, Access.PUBLIC, page=True),
)
