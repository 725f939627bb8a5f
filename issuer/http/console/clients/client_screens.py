"""/console/clients: list, register and rename clients, and their quotas."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.responses import Response

from issuer.clients.quotas import MAX_QUOTA, QuotaUse, change_quotas, read_quotas
from issuer.clients.registry import (
    Client,
    ClientExistsError,
    ClientNotFoundError,
    create_client,
    find_client,
    list_clients,
    rename_client,
)
from issuer.http.auth import Access
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.fields import identify
from issuer.http.operations import Operation, RequestContext
from issuer.ids import InvalidIdError
from issuer.operators.role import Role

PATH: Final = "/console/clients"
NEW_PATH: Final = PATH + "/new"
ONE: Final = PATH + "/{client_id:id}"
PAGE_SIZE: Final = 25
_LIST: Final = ConsolePage("clients/list.html")
_NEW: Final = ConsolePage("clients/new.html")
_SHOW: Final = ConsolePage("clients/client.html")


async def get_list(context: RequestContext) -> Response:
    visit = await open_console(context)
    cursor, postgres = context.request.query_params.get("cursor"), context.services.stores.postgres
    page = await list_clients(postgres, client_id=visit.client_id, limit=PAGE_SIZE, cursor=cursor)
    return _LIST.response(visit, page=page, is_first=cursor is None, may_change=_may_change(visit))


async def get_new(context: RequestContext) -> Response:
    return _NEW.response(await open_console(context, Role.OPERATOR, unbound=True), form=TypedForm({}))


async def post_new(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    typed = TypedForm(await visit.form())
    stores, name = context.services.stores, typed.name() if typed.text("name") else None
    try:
        identity = stores.identity(typed.text("id"))
        if name is None and identity.text is None:
            typed.refuse("name", "a client with a UUID needs a name")
        if not typed.errors:
            client = await create_client(stores, identity, name=name, actor=visit.actor)
            return visit.redirect(f"{PATH}/{client.id}", f"{client.name} is registered.")
    except (InvalidIdError, ClientExistsError) as error:
        typed.refuse("id", str(error))
    return _NEW.response(visit, 422, form=typed)


async def get_client(context: RequestContext) -> Response:
    visit = await open_console(context)
    client, use = await _read(context, visit.client_id)
    return _show(visit, client, use, TypedForm.showing(_fields_of(client, use)))


async def post_client(context: RequestContext) -> Response:
    """Rename a client and change its quotas."""
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    client, use = await _read(context, None)
    typed = TypedForm(await visit.form())
    name = typed.name() if typed.changed("name") else client.name
    quotas = {
        quota: typed.number(quota, least=0, most=MAX_QUOTA) for quota in ("codes", "batches") if typed.changed(quota)
    }
    if typed.errors:
        return _show(visit, client, use, typed, 422)
    postgres = context.services.stores.postgres
    if name != client.name:
        await rename_client(postgres, client.id, name, actor=visit.actor)
    if quotas:
        await change_quotas(postgres, client.id, quotas, actor=visit.actor)
    return visit.redirect(f"{PATH}/{client.id}", "Saved. The change is in effect.")


async def _read(context: RequestContext, only: UUID | None) -> tuple[Client, QuotaUse]:
    """Return the client of the path; one that is not `only` does not exist for its visitor."""
    stores = context.services.stores
    client_id = identify(stores, context.request.path_params["client_id"], "client_id").uuid
    if only not in (None, client_id):
        raise ClientNotFoundError("no client found")
    return await find_client(stores.postgres, client_id), await read_quotas(stores.postgres, client_id)


def _fields_of(client: Client, use: QuotaUse) -> dict[str, str]:
    limits = {"codes": use.limits.codes, "batches": use.limits.batches}
    return {"name": client.name, **{name: "" if limit is None else str(limit) for name, limit in limits.items()}}


def _show(visit: ConsoleVisit, client: Client, use: QuotaUse, typed: TypedForm, status: int = 200) -> Response:
    return _SHOW.response(
        visit, status, client=client, use=use, form=typed, path=f"{PATH}/{client.id}", may_change=_may_change(visit)
    )


def _may_change(visit: ConsoleVisit) -> bool:
    return visit.may(Role.OPERATOR) and visit.client_id is None


OPERATIONS: Final = (
    Operation("GET", PATH, get_list, Access.PUBLIC, page=True),
    Operation("GET", NEW_PATH, get_new, Access.PUBLIC, page=True),
    Operation("POST", NEW_PATH, post_new, Access.PUBLIC, page=True),
    Operation("GET", ONE, get_client, Access.PUBLIC, page=True),
    Operation("POST", ONE, post_client, Access.PUBLIC, page=True),
)
