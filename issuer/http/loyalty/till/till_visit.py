"""A request to the pages of a till: its program, the API key that signed the till in, and the member of staff.

A till keeps no key: its session names the key, so it ends with the key. A member of staff is signed in by a PIN, and
signed out after STAFF_IDLE without a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from issuer.access.api_keys import ApiKey, Scope
from issuer.http.fields import uuid_of
from issuer.http.operations import Handler, RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.http.pages.visit import PageVisit, open_visit
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import find_program
from issuer.loyalty.staff import Staff, find_staff
from issuer.loyalty.work import Actor
from issuer.sessions.session_store import SessionKind, change_detail

PATH: Final = "/till/{program}"
STAFF_IDLE: Final = timedelta(minutes=15)
_NOTED_EVERY: Final = timedelta(minutes=1)
"""Not every request of a member of staff writes that there was one."""


@dataclass(slots=True)
class TillVisit:
    """`key` None: the till is not signed in; `staff` None: no member of staff is.

    `has_ended`: its session ended with its key, and this response deletes the cookie, to which forms are bound.
    """

    context: RequestContext
    visit: PageVisit
    program: Program
    key: ApiKey | None
    staff: Staff | None
    has_ended: bool = False

    @property
    def path(self) -> str:
        return PATH.format(program=self.program.id)

    @property
    def on_duty(self) -> Staff:
        """The member of staff, on a page that needs one."""
        assert self.staff is not None
        return self.staff

    @property
    def actor(self) -> Actor:
        """The caller of an operation, for its entries."""
        assert self.key is not None
        return Actor(api_key_id=self.key.id, staff_id=self.on_duty.id)

    def page(self, page: LocalizedPage, status: int = 200, **values: Any) -> Response:
        """Return a page whose template extends `loyalty/till/till.html`."""
        return self.visit.page(page, status, till=self.path, program=self.program, staff=self.staff, **values)

    def redirect(self, path: str = "", notice: str | None = None) -> Response:
        """Return the redirect to a path below that of the till."""
        return self.visit.redirect(self.path + path, notice)

    async def sign_staff_in(self, staff: Staff | None) -> None:
        """Sign a member of staff in, or with None out."""
        session = self.visit.session
        assert session is not None
        detail = {} if staff is None else {"staff": str(staff.id), "seen_at": datetime.now(UTC).timestamp()}
        await change_detail(self.context.services.stores.postgres, session, detail)
        self.staff = staff


async def open_till(context: RequestContext) -> TillVisit:
    """Return the visit of a request. Raises ProgramNotFoundError, and ProblemError (429)."""
    postgres = context.services.stores.postgres
    program = await find_program(postgres, uuid_of(context.request.path_params["program"], "program"))
    visit = await open_visit(context, SessionKind.TILL, program.id)
    till = TillVisit(context, visit, program, None, None)
    if visit.session is None:
        return till
    key = context.services.keys.get(int(visit.session.owner))
    if key is None or not opens_till(key, program):
        await visit.sign_out()
        till.has_ended = True
        return till
    till.key = key
    detail, now = visit.session.detail, datetime.now(UTC)
    unseen_for = now - datetime.fromtimestamp(detail.get("seen_at", 0), UTC)
    if unseen_for < STAFF_IDLE:
        till.staff = await find_staff(postgres, UUID(detail["staff"]))
    if till.staff is not None and unseen_for > _NOTED_EVERY:
        await till.sign_staff_in(till.staff)
    return till


def staffed(handle: Callable[[TillVisit], Awaitable[Response]]) -> Handler:
    """Return the handler of a page that needs a member of staff; without one, the till asks for what is missing."""

    async def answer(context: RequestContext) -> Response:
        till = await open_till(context)
        return till.redirect() if till.key is None or till.staff is None else await handle(till)

    return answer


def opens_till(key: ApiKey, program: Program) -> bool:
    """Return whether a till of the program may be signed in with this key.

    A key that is bound to no client, or that may do more than a till needs, is kept out of browsers.
    """
    return key.scopes == {Scope.REDEEM} and key.client_id == program.client_id
