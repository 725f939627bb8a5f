"""Sign in and out: an e-mail address, then the code or the link that was sent to it.

Whether a member has the address makes no difference to the answer, and hardly any to the work: the same row is written
and the same mail is built, which is sent, behind the answer, only if it is of use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from starlette.responses import Response

from issuer.http.member_pages.mails import language_of_member, make_mail
from issuer.http.member_pages.visits import MemberVisit, open_member_visit
from issuer.http.operations import RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.loyalty.account import open_account
from issuer.loyalty.member import (
    InvalidMemberError,
    Member,
    MemberExistsError,
    MemberNotFoundError,
    fold_email,
    parse_email,
)
from issuer.loyalty.member_store import create_member_in, find_member, find_member_of_client
from issuer.sessions.login_tokens import (
    EmailAddress,
    LoginToken,
    TokenPurpose,
    create_login_token,
    pending_email,
    try_code,
    use_token,
)
from issuer.sessions.tokens import token_hash
from issuer.storage.postgres import PoolConnection, unavailable_translated

SIGN_IN_PAGE: Final = LocalizedPage("member_pages/sign_in.html", forms=True)
_CODE_PAGE: Final = LocalizedPage("member_pages/code.html", forms=True)
_LINK_PAGE: Final = LocalizedPage("member_pages/link.html", forms=True)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """`is_new`: the login has opened the account."""

    is_new: bool


async def post_sign_in(context: RequestContext) -> Response:
    here = await open_member_visit(context)
    fields = await here.visit.form()
    try:
        given = parse_email(fields.get("email", ""))
    except InvalidMemberError:
        return here.page(SIGN_IN_PAGE, 422, email=fields.get("email", ""), is_wrong=True)
    email = EmailAddress(given, fold_email(given))
    await context.services.login_limits.admit(context.caller.address, (here.program.id, email.folded))
    member = await _member_of(here, email)
    async with unavailable_translated(), here.postgres.acquire() as connection, connection.transaction():
        token = await create_login_token(
            connection, TokenPurpose.LOGIN, here.program.id, email, browser=here.visit.token
        )
    _send(here, email, token, member)
    return here.redirect("/code")


async def get_code(context: RequestContext) -> Response:
    here = await open_member_visit(context)
    email = await pending_email(here.postgres, TokenPurpose.LOGIN, here.program.id, browser=here.visit.token)
    if here.found is not None or email is None:
        return here.redirect()
    return here.page(_CODE_PAGE, email=email, is_wrong=False)


async def post_code(context: RequestContext) -> Response:
    here = await open_member_visit(context)
    fields = await here.visit.form()
    await context.services.login_limits.admit(context.caller.address)
    browser, program = here.visit.token, here.program
    hashed = await try_code(here.postgres, TokenPurpose.LOGIN, program.id, fields.get("code", ""), browser=browser)
    signed_in = None if hashed is None else await _sign_in(here, hashed)
    if signed_in is not None:
        return here.redirect(notice="joined" if signed_in.is_new else None)
    email = await pending_email(here.postgres, TokenPurpose.LOGIN, program.id, browser=browser)
    if email is None:
        return here.redirect(notice="code-expired")
    return here.page(_CODE_PAGE, 422, email=email, is_wrong=True)


async def get_link(context: RequestContext) -> Response:
    """Return a page with a button: what opens the link may be a scanner of mail, and only the button uses it."""
    here = await open_member_visit(context)
    return here.page(_LINK_PAGE)


async def post_link(context: RequestContext) -> Response:
    here = await open_member_visit(context)
    await here.visit.form()
    await context.services.login_limits.admit(context.caller.address)
    hashed = token_hash(context.request.path_params["token"])
    signed_in = None if hashed is None else await _sign_in(here, hashed)
    if signed_in is None:
        return here.redirect(notice="link-expired")
    return here.redirect(notice="joined" if signed_in.is_new else None)


async def post_sign_out(context: RequestContext) -> Response:
    here = await open_member_visit(context)
    await here.visit.form()
    await here.visit.sign_out()
    return here.redirect(notice="signed-out")


async def _member_of(here: MemberVisit, email: EmailAddress) -> Member | None:
    try:
        return await find_member_of_client(here.postgres, here.program.client_id, email_folded=email.folded)
    except MemberNotFoundError:
        return None


def _send(here: MemberVisit, email: EmailAddress, token: LoginToken, member: Member | None) -> None:
    """Send the code, and the link where the address of this server is known."""
    services = here.context.services
    base, language = services.settings.public_url, language_of_member(member, here.visit.language)
    link = None if base is None else base + here.path(f"/link/{token.link}")
    mail = make_mail("login", email.given, language, program=here.program.name, code=token.code, link=link)
    is_of_use = member is not None or here.program.terms.self_join
    if is_of_use and mail is not None and services.mailer is not None:
        services.mailer.post(mail)


async def _sign_in(here: MemberVisit, hashed: bytes) -> SignedIn | None:
    """Use a token and begin a session in one transaction; None: the token is not valid, or opens nothing."""
    try:
        async with unavailable_translated(), here.postgres.acquire() as connection, connection.transaction():
            used = await use_token(connection, TokenPurpose.LOGIN, here.program.id, hashed)
            if used is None:
                return None
            member_id, is_new = await _enter(here, connection, used.email)
            await here.visit.sign_in(connection, str(member_id))
    except (MemberNotFoundError, MemberExistsError):
        # Not known and not to join; or joined a moment ago by another request, and a further try finds the member.
        return None
    return SignedIn(is_new)


async def _enter(here: MemberVisit, connection: PoolConnection, email: EmailAddress) -> tuple[UUID, bool]:
    """Return the member who reads the mail of an address, and whether this opens an account.

    Raises MemberNotFoundError where that would take a new account and the program does not allow it.
    """
    program, joins = here.program, here.program.terms.self_join
    try:
        member = await find_member_of_client(connection, program.client_id, email_folded=email.folded)
    except MemberNotFoundError:
        if not joins:
            raise
        values = {"email": email.given, "locale": here.visit.language}
        created = await create_member_in(connection, program, values, actor="member page")
        return created.member.id, True
    try:
        await find_member(connection, program, str(member.id))
    except MemberNotFoundError:
        if not joins:
            raise
        await open_account(connection, program, member.id)
        return member.id, True
    return member.id, False
