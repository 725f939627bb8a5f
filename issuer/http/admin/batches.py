"""/api/v1/batches: list, create, show with stock, change."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from issuer.batches.batch import NewBatch
from issuer.batches.store import (
    UNSET,
    Batch,
    BatchChanges,
    change_batch,
    create_batch,
    find_batch,
    list_batches,
    open_batches,
)
from issuer.http.admin.redemptions import show_redemption
from issuer.http.fields import (
    PAGED,
    flag_field,
    id_field,
    instant_field,
    json_object,
    json_response,
    name_field,
    page_query,
    page_response,
    path_id,
    rules_field,
)
from issuer.http.naming import CLIENT_FIELDS, named_client
from issuer.http.operations import Operation, RequestContext
from issuer.http.streamed_array import array_response
from issuer.instants import show_instant
from issuer.ledger.redemptions import redemptions_of_batch
from issuer.pools.stock import Stock, batch_stock_chunks


def show_listed(batch: Batch) -> dict[str, Any]:
    """Return a batch as the plain list shows it. Integrations read exactly these fields."""
    return {"id": batch.id, "name": batch.name, "rules": batch.rules.to_json(), "expired": batch.expired}


def show_batch(batch: Batch) -> dict[str, Any]:
    return {
        **show_listed(batch),
        "starts_at": None if batch.starts_at is None else show_instant(batch.starts_at),
        "ends_at": None if batch.ends_at is None else show_instant(batch.ends_at),
        "paused": batch.paused,
        "created_at": show_instant(batch.created_at),
    }


async def get_batches(context: RequestContext) -> Response:
    """Return a plain array of the open batches; with `limit` or `cursor`, a page of all batches."""
    client_id = context.caller.client_id
    if context.request.query_params.keys().isdisjoint(PAGED):
        batches = open_batches(context.services.stores.postgres, client_id=client_id)
        return await array_response(context, batches, show_listed)
    limit, cursor = page_query(context.request)
    page = await list_batches(context.services.stores.postgres, client_id=client_id, limit=limit, cursor=cursor)
    return page_response(page, show_batch)


async def post_batch(context: RequestContext) -> Response:
    values = await json_object(context.request, ("id", "name", "rules", "starts_at", "ends_at", *CLIENT_FIELDS))

    async def show(batch: Batch) -> Response:
        response = json_response(show_batch(batch), 201)
        response.headers["location"] = f"/api/v1/batches/{batch.id}"
        return response

    act = context.act(show)
    await create_batch(
        context.services.stores,
        NewBatch(
            name_field(values),
            rules_field(values),
            instant_field(values, "starts_at"),
            instant_field(values, "ends_at"),
            id_field(values, "id"),
        ),
        client_id=await named_client(context, values),
        actor=context.caller.actor,
        act=act,
    )
    return act.response


async def get_batch(context: RequestContext) -> Response:
    stores, client_id = context.services.stores, context.caller.client_id
    batch = await find_batch(stores.postgres, path_id(context.request, "batch_id"), client_id=client_id)
    stock = batch_stock_chunks(stores, batch.id, client_id=client_id)
    # One entry for each client: a batch may have many.
    before = orjson.dumps(show_batch(batch))[:-1] + b',"stock":'
    return await array_response(context, stock, Stock.to_json, before=before, after=b"}")


async def patch_batch(context: RequestContext) -> Response:
    """Change a batch. The response is sent once the change is in effect."""
    batch_id = path_id(context.request, "batch_id")
    values = await json_object(context.request, ("name", "rules", "starts_at", "ends_at", "paused", "expired"))
    changes = BatchChanges(
        name=name_field(values) if "name" in values else None,
        rules=rules_field(values) if "rules" in values else None,
        starts_at=instant_field(values, "starts_at") if "starts_at" in values else UNSET,
        ends_at=instant_field(values, "ends_at") if "ends_at" in values else UNSET,
        paused=flag_field(values, "paused"),
        expired=flag_field(values, "expired"),
    )
    caller = context.caller
    batch = await change_batch(
        context.services.stores, batch_id, changes, client_id=caller.client_id, actor=caller.actor
    )
    return json_response(show_batch(batch))


async def get_batch_redemptions(context: RequestContext) -> Response:
    limit, cursor = page_query(context.request)
    page = await redemptions_of_batch(
        context.services.stores.postgres,
        path_id(context.request, "batch_id"),
        client_id=context.caller.client_id,
        limit=limit,
        cursor=cursor,
    )
    return page_response(page, show_redemption)


OPERATIONS = (
    Operation("GET", "/api/v1/batches", get_batches, query=PAGED, lenient=True),
    Operation("POST", "/api/v1/batches", post_batch),
    Operation("GET", "/api/v1/batches/{batch_id}", get_batch),
    Operation("PATCH", "/api/v1/batches/{batch_id}", patch_batch),
    Operation("GET", "/api/v1/batches/{batch_id}/redemptions", get_batch_redemptions, query=PAGED),
)
