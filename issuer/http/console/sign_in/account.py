"""/console: leads to the first screen. /console/account: who is signed in, and the password of an operator."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.console.console_visit import ACCOUNT, HOME, ConsoleVisit, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.navigation import navigation_for
from issuer.http.console.principal import principal_of_operator
from issuer.http.console.sign_in.sign_in import sign_in
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import status_problem
from issuer.operators.operator import WrongPasswordError
from issuer.operators.passwords import MIN_LENGTH, InvalidPasswordError
from issuer.operators.store import admit_operator, check_password, choose_password
from issuer.storage.postgres import unavailable_translated

_PAGE: Final = ConsolePage("sign_in/account.html")


async def get_home(context: RequestContext) -> Response:
    """Lead to the first screen that this visitor may open."""
    visit = await open_console(context, offline=True)
    groups = navigation_for(visit)
    return visit.redirect(groups[0].places[0].path if groups else ACCOUNT)


async def get_account(context: RequestContext) -> Response:
    return _show(await open_console(context))


async def post_account(context: RequestContext) -> Response:
    """Change the password. Every other browser of the operator is signed out, and this one gets a new session."""
    visit = await open_console(context)
    form, operator = await visit.form(), visit.principal.operator
    if operator is None:
        raise status_problem(404)
    chosen, postgres, right = form.get("new", ""), context.services.stores.postgres, None
    if operator.initial_until is None:
        await context.services.login_limits.admit(context.address, counted=False)
        try:
            right = await check_password(postgres, operator.name, form.get("current", ""))
        except WrongPasswordError:
            return _show(visit, wrong="current")
    if chosen != form.get("again", ""):
        return _show(visit, wrong="again")
    try:
        async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
            if right is not None:
                operator = await admit_operator(connection, right)
            changed = await choose_password(connection, operator, chosen)
            await sign_in(visit.visit, connection, principal_of_operator(changed))
    except WrongPasswordError:
        return _show(visit, wrong="current")
    except InvalidPasswordError as error:
        return _show(visit, wrong="new", reason=str(error))
    return visit.redirect(HOME, "Your password is changed. Other browsers are signed out.")


def _show(visit: ConsoleVisit, *, wrong: str = "", reason: str = "") -> Response:
    values = {"principal": visit.principal, "wrong": wrong, "reason": reason, "min_length": MIN_LENGTH}
    return _PAGE.response(visit, 422 if wrong else 200, **values)


OPERATIONS: Final = (
    Operation("GET", HOME, get_home, Access.PUBLIC, page=True),
    Operation("GET", ACCOUNT, get_account, Access.PUBLIC, page=True),
    Operation("POST", ACCOUNT, post_account, Access.PUBLIC, page=True),
)
