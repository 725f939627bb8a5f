"""/till/{program} without a member of staff: the till signs in with an API key, then staff with their PINs."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.access import audit
from issuer.http.auth import Access
from issuer.http.loyalty.till.till_visit import PATH, TillVisit, open_till, opens_till
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.http.problems.problem import ProblemError
from issuer.ids import parse_uuid
from issuer.loyalty.staff import PinLockedError, StaffNotFoundError, WrongPinError, check_pin, list_staff
from issuer.storage.postgres import unavailable_translated

_KEY_PAGE: Final = LocalizedPage("loyalty/till/sign_in.html", forms=True)
_PIN_PAGE: Final = LocalizedPage("loyalty/till/pin.html", forms=True)
_WRONG_KEY: Final = ProblemError(401, "the key does not open this till", "unauthorized")


async def show_key_form(till: TillVisit, *, wrong: bool = False) -> Response:
    return till.page(_KEY_PAGE, 403 if wrong else 200, wrong=wrong)


async def show_pin_form(till: TillVisit, *, chosen: str = "", error: str = "", status: int = 200) -> Response:
    """Return the form with the staff of the program. `error`: its name in the template."""
    staff = await list_staff(till.context.services.stores.postgres, till.program.id)
    return till.page(_PIN_PAGE, status, members=staff, chosen=chosen, error=error)


async def post_sign_in(context: RequestContext) -> Response:
    """Sign the till in with an API key, which the browser does not keep."""
    till = await open_till(context)
    form = await till.visit.form()
    services = context.services
    key = services.keys.find(form.get("key", ""))
    if key is None or not opens_till(key, till.program):
        request, peer = context.request, context.request.client
        host = None if peer is None else peer.host
        services.security.refused(_WRONG_KEY, "POST", f"{PATH}/sign-in", host, request.headers.raw, key)
        return await show_key_form(till, wrong=True)
    async with unavailable_translated(), services.stores.postgres.acquire() as connection, connection.transaction():
        await till.visit.sign_in(connection, str(key.id))
        subject, detail = f"program:{till.program.id}", {"key_id": key.id}
        await audit.record(connection, actor=key.actor, action="till.sign-in", subject=subject, detail=detail)
    return till.redirect()


async def post_pin(context: RequestContext) -> Response:
    """Sign a member of staff in."""
    till = await open_till(context)
    form = await till.visit.form()
    if till.key is None:
        return till.redirect()
    chosen = form.get("staff", "")
    staff_id = parse_uuid(chosen)
    try:
        if staff_id is None:
            raise StaffNotFoundError
        staff = await check_pin(context.services.stores.postgres, till.program.id, staff_id, form.get("pin", ""))
    except (StaffNotFoundError, WrongPinError):
        return await show_pin_form(till, chosen=chosen, error="wrong", status=403)
    except PinLockedError:
        return await show_pin_form(till, chosen=chosen, error="locked", status=403)
    await till.sign_staff_in(staff)
    return till.redirect()


async def post_leave(context: RequestContext) -> Response:
    """Sign the member of staff out. The till stays signed in."""
    till = await open_till(context)
    await till.visit.form()
    if till.key is not None:
        await till.sign_staff_in(None)
    return till.redirect()


async def post_sign_out(context: RequestContext) -> Response:
    """Sign the till out."""
    till = await open_till(context)
    await till.visit.form()
    await till.visit.sign_out()
    return till.redirect()


OPERATIONS = tuple(
    Operation("POST", f"{PATH}/{name}", handler, Access.PUBLIC, page=True)
    for name, handler in (
        ("sign-in", post_sign_in), ("pin", post_pin), ("leave", post_leave), ("sign-out", post_sign_out),
    )
)  # fmt: skip
