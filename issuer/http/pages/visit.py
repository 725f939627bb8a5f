"""A visit: one request of a browser to pages with forms, with its session, if it is signed in.

The cookie of such pages is a random token. Before the login it is stored nowhere: it binds the forms, and the code of a
login, to the browser. The login puts a new one in its place, which a row in `sessions` knows by its hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from issuer.http.answered import AnsweredError
from issuer.http.operations import RequestContext
from issuer.http.pages.cookies import SameSite, delete_cookie, read_cookie, set_cookie
from issuer.http.pages.forms import FORM_TOKEN, STALE_FORM, read_form
from issuer.http.pages.languages import NAMES, language_for
from issuer.http.pages.page import LocalizedPage
from issuer.http.same_origin import check_origin
from issuer.sessions.session_store import LIMITS, LoginSession, SessionKind, begin_session, end_session, find_session
from issuer.sessions.tokens import form_token, is_form_token, new_token, token_hash
from issuer.storage.postgres import PoolConnection

VISITOR_S: Final = 3_600
"""How long a browser keeps the token of a visitor who does not sign in."""
NOTICE: Final = "notice"
NOTICE_S: Final = 60
_LINKED: Final = LocalizedPage("pages/linked.html")


@dataclass(slots=True)
class PageVisit:
    """A request, the browser's token and its session. `page` and `redirect` return the responses."""

    context: RequestContext
    kind: SessionKind
    program_id: UUID | None
    token: str
    session: LoginSession | None
    _cookie_age_s: int | None = None
    """How long the browser is to keep the token; 0: not any longer; None: as before."""

    @property
    def language(self) -> str:
        return language_for(self.context.request)

    async def form(self) -> Mapping[str, str]:
        """Return the fields of the form that this browser sends. Raises ProblemError: 403, 400, 415."""
        fields = await read_form(self.context.request)
        if not is_form_token(fields.get(FORM_TOKEN, ""), self.token):
            raise STALE_FORM
        return fields

    def page(self, page: LocalizedPage, status: int = 200, **values: Any) -> Response:
        """Return a page whose template extends `pages/form_base.html`."""
        request = self.context.request
        notice = read_cookie(request, NOTICE)
        response = page.response(
            request, status, form_token=form_token(self.token), notice=notice, languages=NAMES,
            path=request.scope["path"], **values,
        )  # fmt: skip
        if notice is not None:
            delete_cookie(request, response, NOTICE)
        return self.with_token(response)

    def redirect(self, path: str, notice: str | None = None) -> Response:
        """Return the redirect after a form. `notice`: what the next page says, by the name in its template."""
        request, response = self.context.request, Response(status_code=303, headers={"location": path})
        if notice is not None:
            set_cookie(request, response, NOTICE, notice, max_age_s=NOTICE_S)
        return self.with_token(response)

    async def sign_in(self, connection: PoolConnection, owner: str, detail: Mapping[str, Any] | None = None) -> None:
        """Begin a session in the caller's transaction; the browser gets a new token, and its old one is of no use."""
        await end_session(connection, self.token)
        self.token = await begin_session(connection, self.kind, owner, program_id=self.program_id, detail=detail)
        self._cookie_age_s = int(LIMITS[self.kind].absolute.total_seconds())

    async def sign_out(self) -> None:
        """End the session of this browser."""
        await end_session(self.context.services.stores.postgres, self.token)
        self.session, self._cookie_age_s = None, 0

    def with_token(self, response: Response) -> Response:
        """Return the response with what the browser is to keep. `page` and `redirect` have done this."""
        request, name, age_s = self.context.request, cookie_name(self.kind, self.program_id), self._cookie_age_s
        same_site = _same_site(self.kind)
        if age_s == 0:
            delete_cookie(request, response, name)
        elif age_s is not None:
            set_cookie(request, response, name, self.token, max_age_s=age_s, same_site=same_site)
        return response


def cookie_name(kind: SessionKind, program_id: UUID | None) -> str:
    """Return the name of the cookie: pages of two programs in one browser have a session each."""
    return str(kind) if program_id is None else f"{kind}-{program_id.hex}"


def _same_site(kind: SessionKind) -> SameSite:
    """Return which requests carry the cookie: those of members also from a link in a mail."""
    return "lax" if kind is SessionKind.MEMBER else "strict"


def _check_site(request: Request) -> None:
    """Raise what answers a request of another site: a browser sends no strict cookie with it, though it may have one.

    A new cookie would replace that one. AnsweredError: a page that opens the same page again, from here, and then the
    cookie is sent. ProblemError (403): a form.
    """
    if request.headers.get("sec-fetch-site") != "cross-site":
        return
    if request.method != "GET":
        check_origin(request)
    again = quote(request.scope["path"]) + f"?{request.url.query}&again".replace("?&", "?")
    response = _LINKED.response(request, again=again)
    response.headers["refresh"] = f"0; url={again}"
    raise AnsweredError(response)


async def open_visit(
    context: RequestContext, kind: SessionKind, program_id: UUID | None = None, *, used: bool = True
) -> PageVisit:
    """Return the visit of a request. `used`: it keeps the session from its idle time-out.

    Raises ProblemError (429) over the rate limit of its address, and what `_check_site` does.
    """
    services = context.services
    await services.limits.admit(None, context.caller.address)
    token = read_cookie(context.request, cookie_name(kind, program_id))
    if token is None and _same_site(kind) == "strict":
        _check_site(context.request)
    if token is None or token_hash(token) is None:
        return PageVisit(context, kind, program_id, new_token(), None, VISITOR_S)
    session = await find_session(services.stores.postgres, token, kind, program_id, used=used)
    return PageVisit(context, kind, program_id, token, session)
