"""What each page of members begins with: the program of its path, the visit, and who is signed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from issuer.http.member_pages.figures import Figures
from issuer.http.operations import RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.http.pages.visit import PageVisit, open_visit
from issuer.ids import parse_uuid
from issuer.loyalty.member import Member, MemberNotFoundError
from issuer.loyalty.member_store import ProgramMember, find_member
from issuer.loyalty.program import Program, ProgramNotFoundError
from issuer.loyalty.program_store import find_program
from issuer.sessions.session_store import SessionKind
from issuer.storage.postgres import Pool

PATH: Final = "/l/{program}"


@dataclass(slots=True)
class MemberVisit:
    """A request to a page of a program's members. `found`: who is signed in; None: the visitor is not."""

    context: RequestContext
    visit: PageVisit
    program: Program
    found: ProgramMember | None

    @property
    def postgres(self) -> Pool:
        return self.context.services.stores.postgres

    @property
    def sends_mail(self) -> bool:
        return self.context.services.mailer is not None

    def path(self, rest: str = "") -> str:
        """Return the path of a page of this program."""
        return f"/l/{self.program.id}{rest}"

    def page(self, page: LocalizedPage, status: int = 200, **values: Any) -> Response:
        """Return a page with what all pages of members show."""
        figures = Figures(self.program, self.visit.language)
        return self.visit.page(
            page, status, program=self.program, root=self.path(), figures=figures, sends_mail=self.sends_mail, **values
        )

    def redirect(self, rest: str = "", notice: str | None = None) -> Response:
        return self.visit.redirect(self.path(rest), notice)


@dataclass(slots=True)
class SignedInVisit(MemberVisit):
    """A visit of a member."""

    found: ProgramMember

    @property
    def member(self) -> Member:
        return self.found.member

    @property
    def actor(self) -> str:
        """The member, as the audit log names who acts."""
        return f"member:{self.member.id}"


async def open_member_visit(context: RequestContext) -> MemberVisit:
    """Return the visit of a request. Raises ProgramNotFoundError, and ProblemError (429)."""
    program_id = parse_uuid(context.request.path_params["program"])
    if program_id is None:
        raise ProgramNotFoundError
    postgres = context.services.stores.postgres
    program = await find_program(postgres, program_id)
    visit = await open_visit(context, SessionKind.MEMBER, program.id)
    if visit.session is None:
        return MemberVisit(context, visit, program, None)
    try:
        found = await find_member(postgres, program, visit.session.owner)
    except MemberNotFoundError:
        return MemberVisit(context, visit, program, None)
    if found.member.erased_at is not None:
        return MemberVisit(context, visit, program, None)
    return SignedInVisit(context, visit, program, found)


def for_members(handler: Callable[[SignedInVisit], Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Return the handler of a page for members; a visitor who is not signed in is sent to the page that signs in."""

    async def handle(context: RequestContext) -> Response:
        here = await open_member_visit(context)
        return await handler(here) if isinstance(here, SignedInVisit) else here.redirect()

    return handle
