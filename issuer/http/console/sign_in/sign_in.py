"""/console/sign-in: sign in with a password, an API key, or a one-time link; sign out.

The page that a link opens has a button, and only the button uses the link: what opens it may be a preview of a message.
Over plain HTTP beyond this machine there is no sign-in: every device on the way could read the password and the cookie.

Every refusal is answered FAILED_AFTER_S after the request: how long the work took says nothing about names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from issuer.access import audit
from issuer.http.auth import Access
from issuer.http.console.console_visit import HOME, SIGN_IN, console_path, open_browser
from issuer.http.console.known_browser import know_browser, known_operator
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.offline_pass import COOKIE
from issuer.http.console.principal import (
    Principal,
    SignedInBy,
    owner_of,
    principal_of_key,
    principal_of_link,
    principal_of_operator,
    read_principal,
)
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.cookies import delete_cookie, is_plain
from issuer.http.pages.visit import PageVisit
from issuer.http.problems.problem import ProblemError
from issuer.operators.links import use_link
from issuer.operators.operator import WrongPasswordError
from issuer.operators.store import admit_operator, check_password
from issuer.sessions.tokens import form_token
from issuer.storage.postgres import PoolConnection, unavailable_translated

LINK_PATH: Final = "/console/link/{token}"
SIGN_OUT: Final = "/console/sign-out"
FAILED_AFTER_S: Final = 0.5
_wait = asyncio.sleep
_PAGE: Final = ConsolePage("sign_in/sign_in.html")
_LINK_PAGE: Final = ConsolePage("sign_in/link.html")
_INSECURE_PAGE: Final = ConsolePage("sign_in/insecure.html")
REFUSED: Final = ProblemError(401, "what was sent does not open the console", "unauthorized")


async def get_sign_in(context: RequestContext) -> Response:
    visit, back = await open_browser(context), context.request.query_params.get("next")
    if visit.session is not None and await read_principal(context.services, visit.session) is not None:
        return visit.redirect(_next(back))
    return _show(visit, back=back)


async def post_sign_in(context: RequestContext) -> Response:
    """Sign in with a name and a password, or with an API key, which the browser does not keep."""
    started = asyncio.get_running_loop().time()
    visit = await open_browser(context)
    form = await visit.form()
    if not _is_secure(context):
        return _show(visit)
    await context.services.login_limits.admit(context.address, counted=False)
    principal = await (_by_password if "name" in form else _by_key)(visit, form)
    if principal is None:
        wrong = "password" if "name" in form else "key"
        await _refused(context, SIGN_IN, started)
        return _show(visit, 403, back=form.get("next"), wrong=wrong, name=form.get("name", ""))
    response = visit.redirect(_next(form.get("next")))
    if principal.operator is not None:
        know_browser(context.services, context.request, response, principal.operator.id)
    return response


async def get_link(context: RequestContext) -> Response:
    visit = await open_browser(context)
    return _show_link(visit) if _is_secure(context) else _show(visit)


async def post_link(context: RequestContext) -> Response:
    started = asyncio.get_running_loop().time()
    visit = await open_browser(context)
    await visit.form()
    if not _is_secure(context):
        return _show(visit)
    await context.services.login_limits.admit(context.address, counted=False)
    postgres, token = context.services.stores.postgres, context.request.path_params["token"]
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        made_by = await use_link(connection, token)
        if made_by is not None:
            await sign_in(visit, connection, principal_of_link(made_by))
    if made_by is None:
        await _refused(context, LINK_PATH, started)
        return _show_link(visit, 403, wrong=True)
    return visit.redirect(HOME)


async def post_sign_out(context: RequestContext) -> Response:
    visit = await open_browser(context)
    await visit.form()
    await visit.sign_out()
    response = visit.redirect(SIGN_IN)
    delete_cookie(context.request, response, COOKIE)
    return response


async def sign_in(visit: PageVisit, connection: PoolConnection, principal: Principal) -> None:
    """Begin a session in the caller's transaction, with an entry in the audit log."""
    if principal.operator is not None:
        owner = principal.operator.owner
    elif principal.key is not None:
        owner = owner_of(SignedInBy.KEY, principal.key.id)
    else:
        owner = principal.actor
    await visit.sign_in(connection, owner)
    detail = {"role": principal.role}
    await audit.record(connection, actor=principal.actor, action="console.sign-in", subject="console", detail=detail)


async def _by_password(visit: PageVisit, form: Mapping[str, str]) -> Principal | None:
    context = visit.context
    postgres, known = context.services.stores.postgres, known_operator(context.services, context.request)
    try:
        right = await check_password(postgres, form["name"], form.get("password", ""), known=known)
        async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
            principal = principal_of_operator(await admit_operator(connection, right))
            await sign_in(visit, connection, principal)
    except WrongPasswordError:
        return None
    return principal


async def _by_key(visit: PageVisit, form: Mapping[str, str]) -> Principal | None:
    services = visit.context.services
    key = services.keys.find(form.get("key", "")) if services.checks_keys else None
    principal = None if key is None else principal_of_key(key)
    if principal is not None:
        async with unavailable_translated(), services.stores.postgres.acquire() as connection, connection.transaction():
            await sign_in(visit, connection, principal)
    return principal


def _is_secure(context: RequestContext) -> bool:
    """Return whether what the browser sends reaches this server, or the proxy before it, unread."""
    request = context.request
    return request.headers.get("x-forwarded-proto", request.url.scheme) == "https" or is_plain(request)


def _show(visit: PageVisit, status: int = 200, *, back: str | None = None, wrong: str = "", name: str = "") -> Response:
    """Return the form, or the page that says why there is none."""
    context = visit.context
    if not _is_secure(context):
        return _INSECURE_PAGE.plain(context.request, 403, port=context.request.url.port or 80)
    values = {
        "back": console_path(back or ""),
        "wrong": wrong,
        "name": name,
        "takes_keys": context.services.checks_keys,
    }
    return visit.with_token(_PAGE.plain(context.request, status, form_token=form_token(visit.token), **values))


def _show_link(visit: PageVisit, status: int = 200, *, wrong: bool = False) -> Response:
    request = visit.context.request
    values = {"path": request.scope["path"], "wrong": wrong, "form_token": form_token(visit.token)}
    return visit.with_token(_LINK_PAGE.plain(request, status, **values))


def _next(back: str | None) -> str:
    """Return where a sign-in leads: a page of the console."""
    path = console_path(back or "")
    return HOME if path is None or path.startswith(SIGN_IN) else path


async def _refused(context: RequestContext, route: str, started: float) -> None:
    """Log a refusal, and return when it is time to answer it."""
    request = context.request
    peer = None if request.client is None else request.client.host
    context.services.security.refused(REFUSED, "POST", route, peer, request.headers.raw, None)
    # A refusal that is delayed must keep no other request from Postgres.
    await context.end_slot()
    await _wait(max(0.0, started + FAILED_AFTER_S - asyncio.get_running_loop().time()))


OPERATIONS: Final = (
    Operation("GET", SIGN_IN, get_sign_in, Access.PUBLIC, page=True),
    Operation("POST", SIGN_IN, post_sign_in, Access.PUBLIC, page=True),
    Operation("GET", LINK_PATH, get_link, Access.PUBLIC, page=True),
    Operation("POST", LINK_PATH, post_link, Access.PUBLIC, page=True),
    Operation("POST", SIGN_OUT, post_sign_out, Access.PUBLIC, page=True),
)
