"""What a member sees and changes of itself: name, marketing, e-mail address, all data, deletion."""

from __future__ import annotations

from typing import Final

import orjson
from starlette.responses import Response

from issuer.http.member_pages.mails import language_of_member, make_mail
from issuer.http.member_pages.visits import SignedInVisit, for_members
from issuer.http.pages.page import LocalizedPage
from issuer.loyalty.member import InvalidMemberError, MemberExistsError, fold_email, parse_email
from issuer.loyalty.member_erasure import erase_member
from issuer.loyalty.member_store import change_member
from issuer.loyalty.traces import export_person
from issuer.sessions.login_tokens import (
    EmailAddress,
    TokenPurpose,
    create_login_token,
    pending_email,
    try_code,
    use_token,
)
from issuer.storage.postgres import unavailable_translated

_PROFILE: Final = LocalizedPage("member_pages/profile.html", forms=True)
_EMAIL: Final = LocalizedPage("member_pages/email.html", forms=True)
_DELETE: Final = LocalizedPage("member_pages/delete.html", forms=True)


@for_members
async def get_profile(here: SignedInVisit) -> Response:
    return here.page(_PROFILE, member=here.member, name=here.member.name or "", wrong=None)


@for_members
async def post_profile(here: SignedInVisit) -> Response:
    fields = await here.visit.form()
    name, marketing = fields.get("name", ""), "marketing" in fields
    values: dict[str, object] = {"name": name or None}
    if marketing != here.member.marketing:
        values["marketing"] = marketing
    try:
        await change_member(here.postgres, here.program, here.found, values, actor=here.actor)
    except InvalidMemberError:
        return here.page(_PROFILE, 422, member=here.member, name=name, wrong="name")
    return here.redirect("/profile", "saved")


@for_members
async def post_email(here: SignedInVisit) -> Response:
    """Send a code to a new address. Whether another member has it is said to who reads its mail alone."""
    fields = await here.visit.form()
    try:
        given = parse_email(fields.get("email", ""))
    except InvalidMemberError:
        return here.page(_PROFILE, 422, member=here.member, name=here.member.name or "", wrong="email")
    email, services = EmailAddress(given, fold_email(given)), here.context.services
    await services.login_limits.admit(here.context.caller.address, (here.program.id, email.folded))
    async with unavailable_translated(), here.postgres.acquire() as connection, connection.transaction():
        token = await create_login_token(
            connection, TokenPurpose.EMAIL, here.program.id, email, browser=here.visit.token, member_id=here.member.id
        )
    language = language_of_member(here.member, here.visit.language)
    mail = make_mail("email", given, language, program=here.program.name, code=token.code)
    if mail is not None and services.mailer is not None:
        services.mailer.post(mail)
    return here.redirect("/email")


@for_members
async def get_email(here: SignedInVisit) -> Response:
    email = await pending_email(here.postgres, TokenPurpose.EMAIL, here.program.id, browser=here.visit.token)
    return here.redirect("/profile") if email is None else here.page(_EMAIL, email=email, is_wrong=False)


@for_members
async def post_email_code(here: SignedInVisit) -> Response:
    """Change the address, once its owner has confirmed it; the old one gets a notice, other sessions end."""
    fields = await here.visit.form()
    services, program, browser, old = here.context.services, here.program, here.visit.token, here.member.email
    await services.login_limits.admit(here.context.caller.address)
    code = fields.get("code", "")
    hashed = await try_code(here.postgres, TokenPurpose.EMAIL, program.id, code, browser=browser)
    new = None if hashed is None else await _confirmed(here, hashed)
    if new is None:
        email = await pending_email(here.postgres, TokenPurpose.EMAIL, program.id, browser=browser)
        if email is None:
            return here.redirect("/profile", "code-expired")
        return here.page(_EMAIL, 422, email=email, is_wrong=True)
    try:
        await change_member(
            here.postgres, program, here.found, {"email": new}, actor=here.actor, session=here.visit.session
        )
    except MemberExistsError:
        return here.redirect("/profile", "email-taken")
    language = language_of_member(here.member, here.visit.language)
    mail = None if old is None else make_mail("email_changed", old, language, program=program.name)
    if mail is not None and services.mailer is not None:
        services.mailer.post(mail)
    return here.redirect("/profile", "email-changed")


async def _confirmed(here: SignedInVisit, hashed: bytes) -> str | None:
    """Use the token and return the address that it confirms for this member."""
    async with unavailable_translated(), here.postgres.acquire() as connection, connection.transaction():
        used = await use_token(connection, TokenPurpose.EMAIL, here.program.id, hashed)
    return None if used is None or used.member_id != here.member.id else used.email.given


@for_members
async def get_data(here: SignedInVisit) -> Response:
    """Return everything that is stored about the member, as a file."""
    async with (
        unavailable_translated(),
        here.postgres.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        data = await export_person(connection, here.member)
    headers = {"content-disposition": 'attachment; filename="my-data.json"'}
    return Response(orjson.dumps(data, option=orjson.OPT_INDENT_2), media_type="application/json", headers=headers)


@for_members
async def get_delete(here: SignedInVisit) -> Response:
    return here.page(_DELETE, is_wrong=False)


@for_members
async def post_delete(here: SignedInVisit) -> Response:
    """Erase the member: in all programs of the client, for good."""
    fields = await here.visit.form()
    if fields.get("sure") != "yes":
        return here.page(_DELETE, 422, is_wrong=True)
    await erase_member(here.postgres, here.member, actor=here.actor)
    await here.visit.sign_out()
    return here.redirect(notice="deleted")
