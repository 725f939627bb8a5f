"""/console/keys: API keys, listed, created and revoked. For administrators of the whole installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response

from issuer.access.api_keys import (
    ApiKey,
    ApiKeyNotFoundError,
    InvalidApiKeyError,
    Scope,
    create_key,
    list_keys,
    revoke_key,
)
from issuer.clients.registry import ClientNotFoundError
from issuer.http.auth import Access
from issuer.http.console.console_visit import ConsoleVisit, Role, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.fields import path_number
from issuer.http.naming import named_client
from issuer.http.operations import Operation, RequestContext
from issuer.ids import InvalidIdError

PATH: Final = "/console/keys"
PAGE_SIZE: Final = 50
_LIST: Final = ConsolePage("access/keys.html")
_NEW: Final = ConsolePage("access/new_key.html")
_CREATED: Final = ConsolePage("access/created_key.html")
_REVOKE: Final = ConsolePage("access/revoke_key.html")


async def get_keys(context: RequestContext) -> Response:
    visit = await _open(context)
    cursor = context.request.query_params.get("cursor")
    page = await list_keys(context.services.stores.postgres, limit=PAGE_SIZE, cursor=cursor)
    return _LIST.response(visit, page=page, first=cursor is None)


async def get_new(context: RequestContext) -> Response:
    return _show_form(await _open(context), {})


async def post_key(context: RequestContext) -> Response:
    """Create a key. The page that answers shows its secret, once."""
    visit = await _open(context)
    form = await visit.form()
    try:
        key, secret = await create_key(
            context.services.stores.postgres,
            name=form.get("name", ""),
            scopes=[scope for scope in Scope if f"scope_{scope}" in form],
            client_id=await named_client(visit.context, {"client": form.get("client") or None}),
            rate_limit=form.get("rate_limit") or None,
            actor=visit.actor,
        )
    except (ClientNotFoundError, InvalidIdError) as error:
        return _show_form(visit, form, client=str(error))
    except InvalidApiKeyError as error:
        return _show_form(visit, form, other=str(error))
    return _CREATED.response(visit, key=key, secret=secret)


async def get_revoke(context: RequestContext) -> Response:
    """Ask whether a key is to be revoked."""
    return _REVOKE.response(await _open(context), key=_valid_key(context))


async def post_revoke(context: RequestContext) -> Response:
    visit = await _open(context)
    await visit.form()
    key = await revoke_key(context.services.stores.postgres, _valid_key(context).id, actor=visit.actor)
    return visit.redirect(PATH, f"The key “{key.name}” is revoked.")


async def _open(context: RequestContext) -> ConsoleVisit:
    return await open_console(context, Role.ADMIN, unbound=True)


def _valid_key(context: RequestContext) -> ApiKey:
    """Return the key of the path. Raises ApiKeyNotFoundError."""
    key_id = path_number(context.request, "key_id")
    key = None if key_id is None else context.services.keys.get(key_id)
    if key is None:
        raise ApiKeyNotFoundError("no key found")
    return key


def _show_form(visit: ConsoleVisit, form: Mapping[str, str], *, client: str = "", other: str = "") -> Response:
    """Return the form with what was typed. `other`: the fault of another field than `client`."""
    errors = {"client": client, "name": "", "scopes": "", "rate_limit": ""}
    if other:
        words = other.casefold()
        place = "rate_limit" if "limit" in words else "client" if "client" in words else "name"
        errors["scopes" if "scope" in words else place] = other
    scopes = [(scope, f"scope_{scope}" in form) for scope in Scope]
    return _NEW.response(visit, 422 if client or other else 200, form=form, errors=errors, scopes=scopes)


OPERATIONS: Final = (
    Operation("GET", PATH, get_keys, Access.PUBLIC, page=True),
    Operation("POST", PATH, post_key, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/new", get_new, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/{key_id}/revoke", get_revoke, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/{key_id}/revoke", post_revoke, Access.PUBLIC, page=True),
)
