"""/console/operators: who signs in with a password. For administrators of the whole installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from issuer.clients.registry import ClientNotFoundError
from issuer.http.admin.operators import given_operator
from issuer.http.auth import Access
from issuer.http.console.console_visit import ConsoleVisit, Role, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.naming import named_client
from issuer.http.operations import Operation, RequestContext
from issuer.ids import InvalidIdError
from issuer.operators.operator import InvalidOperatorError, OperatorExistsError
from issuer.operators.store import create_operator, disable_operator, find_operator, list_operators, reset_operator

PATH: Final = "/console/operators"
ONE: Final = PATH + "/{operator_id}"
PAGE_SIZE: Final = 50
ROLES: Final = (
    (Role.VIEWER, "Viewer – sees everything, changes nothing"),
    (Role.OPERATOR, "Operator – also runs batches, coupons, campaigns and points"),
    (Role.ADMIN, "Administrator – also API keys, operators, audit and settings"),
)
_LIST: Final = ConsolePage("access/operators.html")
_NEW: Final = ConsolePage("access/new_operator.html")
_PASSWORD: Final = ConsolePage("access/operator_password.html")
_CONFIRM: Final = ConsolePage("access/confirm_operator.html")


async def get_operators(context: RequestContext) -> Response:
    visit = await _open(context)
    cursor = context.request.query_params.get("cursor")
    page = await list_operators(context.services.stores.postgres, limit=PAGE_SIZE, cursor=cursor)
    return _LIST.response(visit, page=page, first=cursor is None)


async def get_new(context: RequestContext) -> Response:
    return _show_form(await _open(context), {})


async def post_operator(context: RequestContext) -> Response:
    """Create an operator. The page that answers shows the first password, once."""
    visit = await _open(context)
    form = await visit.form()
    try:
        operator, password = await create_operator(
            context.services.stores.postgres,
            form.get("name", ""),
            form.get("role", ""),
            client_id=await named_client(visit.context, {"client": form.get("client") or None}),
            actor=visit.actor,
        )
    except (ClientNotFoundError, InvalidIdError) as error:
        return _show_form(visit, form, client=str(error))
    except (InvalidOperatorError, OperatorExistsError) as error:
        return _show_form(visit, form, name=str(error))
    return _PASSWORD.response(visit, operator=operator, password=password)


async def get_confirmation(context: RequestContext) -> Response:
    """Ask whether an operator is to be reset or disabled."""
    visit = await _open(context)
    operator = await find_operator(context.services.stores.postgres, given_operator(context))
    act = context.request.scope["path"].rpartition("/")[2]
    return _CONFIRM.response(visit, operator=operator, act=act)


async def post_reset(context: RequestContext) -> Response:
    visit = await _open(context)
    await visit.form()
    postgres = context.services.stores.postgres
    operator, password = await reset_operator(postgres, given_operator(context), actor=visit.actor)
    return _PASSWORD.response(visit, operator=operator, password=password)


async def post_disable(context: RequestContext) -> Response:
    visit = await _open(context)
    await visit.form()
    operator = await disable_operator(context.services.stores.postgres, given_operator(context), actor=visit.actor)
    return visit.redirect(PATH, f"{operator.name} is disabled and signed out.")


async def _open(context: RequestContext) -> ConsoleVisit:
    return await open_console(context, Role.ADMIN, unbound=True)


def _show_form(visit: ConsoleVisit, form: Mapping[str, str], *, client: str = "", name: str = "") -> Response:
    """Return the form with what was typed. `client`, `name`: what is wrong with these fields."""
    errors = {"client": client, "name": name}
    return _NEW.response(visit, 422 if client or name else 200, form=form, errors=errors, roles=ROLES)


OPERATIONS: Final = (
    Operation("GET", PATH, get_operators, Access.PUBLIC, page=True),
    Operation("POST", PATH, post_operator, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/new", get_new, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/reset", get_confirmation, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/reset", post_reset, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/disable", get_confirmation, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/disable", post_disable, Access.PUBLIC, page=True),
)
