"""/api/v1/clients: register, list, show and rename clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from starlette.responses import Response

from issuer.clients.quotas import MAX_QUOTA, change_quotas, read_quotas
from issuer.clients.registry import (
    Client,
    ClientNotFoundError,
    create_client,
    find_client,
    list_clients,
    rename_client,
)
from issuer.http.auth import Access
from issuer.http.fields import PAGED, identify, json_object, json_response, name_field, page_query, page_response
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid

PATH = "/api/v1/clients"
QUOTAS_PATH = PATH + "/{client_id:id}/quotas"
QUOTAS = ("codes", "batches")


async def get_clients(context: RequestContext) -> Response:
    """Return a page of the registered clients; a bound key sees its own."""
    limit, cursor = page_query(context.request)
    page = await list_clients(
        context.services.stores.postgres, client_id=context.caller.client_id, limit=limit, cursor=cursor
    )
    return page_response(page, Client.to_json)


async def post_client(context: RequestContext) -> Response:
    values = await json_object(context.request, ("id", "name"))
    if not isinstance(values.get("id"), str):
        raise invalid("id must be a string: a UUID, or a text such as band-42")
    stores = context.services.stores

    async def show(client: Client) -> Response:
        response = json_response(client.to_json(), 201)
        response.headers["location"] = f"{PATH}/{client.id}"
        return response

    act = context.act(show)
    await create_client(
        stores,
        stores.identity(values["id"]),
        name=None if values.get("name") is None else name_field(values),
        actor=context.caller.actor,
        act=act,
    )
    return act.response


async def get_client(context: RequestContext) -> Response:
    client_id = _client(context)
    if context.caller.client_id not in (None, client_id):
        raise ClientNotFoundError("no client found")
    return json_response((await find_client(context.services.stores.postgres, client_id)).to_json())


async def patch_client(context: RequestContext) -> Response:
    client_id = _client(context)
    values = await json_object(context.request, ("name",))
    client = await rename_client(
        context.services.stores.postgres, client_id, name_field(values), actor=context.caller.actor
    )
    return json_response(client.to_json())


async def get_quotas(context: RequestContext) -> Response:
    """Return the quotas of a client and what counts against them; a bound key sees those of its own."""
    client_id = _client(context)
    if context.caller.client_id not in (None, client_id):
        raise ClientNotFoundError("no client found")
    return json_response((await read_quotas(context.services.stores.postgres, client_id)).to_json())


async def patch_quotas(context: RequestContext) -> Response:
    """Change quotas of a client; an absent one stays, null removes it."""
    client_id, postgres = _client(context), context.services.stores.postgres
    values = await json_object(context.request, QUOTAS)
    changed = {name: _quota(values, name) for name in QUOTAS if name in values}
    return json_response((await change_quotas(postgres, client_id, changed, actor=context.caller.actor)).to_json())


def _quota(values: Mapping[str, Any], name: str) -> int | None:
    value = values[name]
    # bool is a subclass of int, but true is not a number of codes.
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_QUOTA):
        raise invalid(f"{name} must be null or a whole number from 0 to {MAX_QUOTA}")
    return value


def _client(context: RequestContext) -> UUID:
    return identify(context.services.stores, context.request.path_params["client_id"], "client_id").uuid


OPERATIONS = (
    Operation("GET", PATH, get_clients, query=PAGED),
    Operation("POST", PATH, post_client, Access.OPERATOR),
    Operation("GET", PATH + "/{client_id:id}", get_client),
    Operation("PATCH", PATH + "/{client_id:id}", patch_client, Access.OPERATOR),
    Operation("GET", QUOTAS_PATH, get_quotas),
    Operation("PATCH", QUOTAS_PATH, patch_quotas, Access.OPERATOR),
)
