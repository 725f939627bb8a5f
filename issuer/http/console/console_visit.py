"""A request to the console: who is signed in, what they may do, and the forms and redirects of its pages.

    async def get_batches(context: RequestContext) -> Response:
        visit = await open_console(context)
        ...

`visit.context` is the request with the caller who is signed in: pass it to what the API routes call with theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from issuer.http.answered import AnsweredError
from issuer.http.auth import Caller
from issuer.http.console.form_id import FORM_ID, FormId
from issuer.http.console.offline_pass import COOKIE, LIFETIME_S, read_pass, sign_pass
from issuer.http.console.principal import Principal, read_principal
from issuer.http.idempotency import KeyedAct, request_digest
from issuer.http.operations import RequestContext
from issuer.http.pages.cookies import delete_cookie, read_cookie, set_cookie
from issuer.http.pages.forms import FORM_TOKEN, STALE_FORM
from issuer.http.pages.visit import NOTICE, PageVisit, open_visit
from issuer.http.problems.problem import ProblemError
from issuer.http.same_origin import check_origin
from issuer.ids import parse_uuid
from issuer.operators.role import Role as Role
from issuer.sessions.session_store import SessionKind
from issuer.sessions.tokens import form_token, is_form_token
from issuer.storage.postgres import PostgresUnavailableError

HOME: Final = "/console"
SIGN_IN: Final = "/console/sign-in"
ACCOUNT: Final = "/console/account"
MAX_NOTICE: Final = 300
Result = TypeVar("Result")
LOW_ROLE: Final = ProblemError(403, "your role does not allow this", "role_too_low")
BOUND: Final = ProblemError(403, "your account sees one client, and this is about the whole installation", "bound_key")


@dataclass(slots=True)
class ConsoleVisit:
    """The visit of a person who is signed in. `context.caller` is that person, as an API route sees its caller."""

    context: RequestContext
    visit: PageVisit
    principal: Principal
    is_offline: bool = False
    """Postgres is unavailable, and an offline pass admits the visit, which can change nothing."""

    @property
    def request(self) -> Request:
        return self.context.request

    @property
    def caller_name(self) -> str:
        return self.principal.name

    @property
    def actor(self) -> str:
        """The name in the audit log of what is done in this visit."""
        return self.principal.actor

    @property
    def role(self) -> Role:
        return self.principal.role

    @property
    def client_id(self) -> UUID | None:
        """The client to which the visit is bound; None: it sees every client."""
        return self.principal.client_id

    @property
    def client(self) -> str | None:
        """The name of that client, or its id where it has none; None: the visit sees every client."""
        principal = self.principal
        return None if principal.client_id is None else principal.client_name or str(principal.client_id)

    @property
    def form_token(self) -> str:
        """What each form of the page sends in a hidden field, FORM_TOKEN."""
        return form_token(self.visit.token)

    @property
    def notice(self) -> str | None:
        """What the form before this page has done, as text for people. `finish` takes it off the next page."""
        notice = read_cookie(self.request, NOTICE)
        return None if notice is None else unquote(notice)

    def may(self, role: Role) -> bool:
        """Return whether to show what needs a role."""
        return self.role.includes(role)

    async def form(self) -> Mapping[str, str]:
        """Return the fields of the form, trimmed, once it has proved to be ours. Raises ProblemError: 403, 400, 415."""
        return await self.visit.form()

    async def act(self, show: Callable[[Result], Awaitable[Response]]) -> KeyedAct[Result]:
        """Return the act of a form with a FORM_ID: what is done once, and answered alike if the form is sent again.

        `show` returns that answer, a redirect. Raises AnsweredError with it for a form that was carried out, and
        ProblemError: as `form`, and 422 for other values than were sent with this id before.
        """
        form, request = await self.form(), self.request
        form_id = parse_uuid(form.get(FORM_ID, ""))
        typed = sorted(f"{name}={value}".encode() for name, value in form.items() if name != FORM_TOKEN)
        idempotency = FormId(
            self.context.services.stores.postgres,
            self.client_id,
            f"{request.method} {request.scope['path']}",
            None if form_id is None else str(form_id),
            request_digest(*typed),
        )
        await idempotency.check()
        return KeyedAct(idempotency, show)

    def check_form(self, given: str | None) -> None:
        """Check a form that the handler reads itself, such as an upload, by its field FORM_TOKEN.

        Raises ProblemError (403).
        """
        check_origin(self.request)
        if not is_form_token(given or "", self.visit.token):
            raise STALE_FORM

    def redirect(self, path: str, notice: str | None = None) -> Response:
        """Return the redirect after a form. `notice`: what the next page says, in English."""
        return self.visit.redirect(path, None if notice is None else quote(notice[:MAX_NOTICE]))

    def finish(self, response: Response) -> Response:
        """Return a page with the cookies of the visit. Every page that shows `notice` is returned through this."""
        if read_cookie(self.request, NOTICE) is not None:
            delete_cookie(self.request, response, NOTICE)
        if not self.is_offline:
            value = sign_pass(self.context.services, self.visit.token, self.principal)
            set_cookie(self.request, response, COOKIE, value, max_age_s=LIFETIME_S, same_site="strict")
        return self.visit.with_token(response)


async def open_console(
    context: RequestContext, role: Role = Role.VIEWER, *, unbound: bool = False, offline: bool = False
) -> ConsoleVisit:
    """Return the visit of a request by a person with this role or a higher one.

    `unbound`: the page is about the whole installation, and closed to those who see one client only. `offline`: it is
    of use without Postgres, and shown for an hour to those who were signed in (`ConsoleVisit.is_offline`).

    Raises AnsweredError, which leads to the sign-in, for one who is not signed in, and to the account for an operator
    that must choose a password first; ProblemError (403, 429) and PostgresUnavailableError.
    """
    try:
        visit = await open_browser(context)
        principal = None if visit.session is None else await read_principal(context.services, visit.session)
    except PostgresUnavailableError:
        found = _offline(context) if offline else None
        if found is None:
            raise
        visit, principal = found
    if principal is None:
        raise AnsweredError(_to_sign_in(visit))
    if principal.has_first_password and context.request.scope["path"] != ACCOUNT:
        raise AnsweredError(_lead(visit, ACCOUNT))
    if not principal.role.includes(role):
        raise LOW_ROLE
    if unbound and principal.client_id is not None:
        raise BOUND
    caller = Caller(principal.actor, principal.client_id, principal.key, context.caller.address)
    is_offline = visit.session is None
    return ConsoleVisit(replace(context, caller=caller), visit, principal, is_offline)


async def open_browser(context: RequestContext) -> PageVisit:
    """Return the visit of a browser, signed in or not. Raises as `open_visit` does."""
    request = context.request
    # What a page fetches by itself, such as its figures, keeps no one signed in.
    used = request.method != "GET" or request.headers.get("sec-fetch-mode", "navigate") == "navigate"
    return await open_visit(context, SessionKind.CONSOLE, used=used)


def _offline(context: RequestContext) -> tuple[PageVisit, Principal] | None:
    """Return the visit that a pass admits; None: there is none, or the request would change something."""
    token, given = read_cookie(context.request, SessionKind.CONSOLE), read_cookie(context.request, COOKIE)
    if token is None or given is None or context.request.method != "GET":
        return None
    principal = read_pass(context.services, token, given)
    return None if principal is None else (PageVisit(context, SessionKind.CONSOLE, None, token, None), principal)


def _to_sign_in(visit: PageVisit) -> Response:
    """Return the redirect to the page that signs in and leads back; for a part of a page, the order to follow it."""
    request = visit.context.request
    is_part = request.headers.get("hx-request") == "true"
    here = request.headers.get("hx-current-url", "") if is_part else str(request.url)
    way = SIGN_IN
    if (is_part or request.method == "GET") and (back := console_path(here)) not in (None, HOME):
        way += f"?next={quote(str(back), safe='')}"
    return _lead(visit, way)


def _lead(visit: PageVisit, path: str) -> Response:
    """Return the redirect to a page, also for a request for a part of one."""
    is_part = visit.context.request.headers.get("hx-request") == "true"
    return Response(headers={"hx-redirect": path}) if is_part else visit.redirect(path)


def console_path(url: str) -> str | None:
    """Return the path of a page of the console, with its query, from a URL or a path; None: it is none.

    It is taken out of what others may have written, so it is where a redirect leads: never to another origin.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    is_ours = parts.path == HOME or parts.path.startswith(HOME + "/")
    is_plain = path.isascii() and path.isprintable() and "\\" not in path and ".." not in path.split("/")
    return path if is_ours and is_plain else None
