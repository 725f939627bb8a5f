"""/api/v1/batches: list, create, show with stock, change."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

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
    answer,
    flag_field,
    instant_field,
    json_object,
    known_query,
    name_field,
    page_answer,
    page_query,
    path_id,
    rules_field,
)
from issuer.http.operations import Operation, RequestContext
from issuer.instants import show_instant
from issuer.ledger.redemptions import redemptions_of_batch
from issuer.pools.stock import Stock, batch_stock


def show_listed(batch: Batch) -> dict[str, Any]:
    """A batch as the list has it; integrations read just these fields."""
    return {"id": batch.id, "name": batch.name, "rules": batch.rules.to_json(), "expired": batch.expired}


def show_batch(batch: Batch) -> dict[str, Any]:
    return {
        **show_listed(batch),
        "starts_at": None if batch.starts_at is None else show_instant(batch.starts_at),
        "ends_at": None if batch.ends_at is None else show_instant(batch.ends_at),
        "paused": batch.paused,
        "created_at": show_instant(batch.created_at),
    }


def show_stock(stock: Stock) -> dict[str, Any]:
    return {
        "client_id": stock.client_id,
        "total": stock.total,
        "in_redis": stock.in_redis,
        "issued": stock.issued,
        "ledger": stock.ledger,
        "backlog": stock.backlog,
        "quarantined": stock.quarantined,
        "dead_letters": stock.dead_letters,
    }


async def get_batches(call: RequestContext) -> Response:
    """Without parameters a plain array of what is not expired; with limit or cursor pages of everything."""
    client_id = call.caller.client_id
    if not call.request.query_params:
        batches = await open_batches(call.services.stores.postgres, client_id=client_id)
        return answer([show_listed(batch) for batch in batches])
    limit, cursor = page_query(call.request)
    page = await list_batches(call.services.stores.postgres, client_id=client_id, limit=limit, cursor=cursor)
    return page_answer(page, show_batch)


async def post_batch(call: RequestContext) -> Response:
    known_query(call.request)
    values = await json_object(call.request, ("name", "rules", "starts_at", "ends_at"))
    batch = await create_batch(
        call.services.stores,
        name=name_field(values),
        rules=rules_field(values),
        starts_at=instant_field(values, "starts_at"),
        ends_at=instant_field(values, "ends_at"),
        client_id=call.caller.client_id,
        actor=call.caller.actor,
    )
    response = answer(show_batch(batch), 201)
    response.headers["location"] = f"/api/v1/batches/{batch.id}"
    return response


async def get_batch(call: RequestContext) -> Response:
    known_query(call.request)
    stores, client_id = call.services.stores, call.caller.client_id
    batch = await find_batch(stores.postgres, path_id(call.request, "batch_id"), client_id=client_id)
    stock = await batch_stock(stores, batch.id, client_id=client_id)
    return answer({**show_batch(batch), "stock": [show_stock(pool) for pool in stock]})


async def patch_batch(call: RequestContext) -> Response:
    """Answers when the change counts."""
    known_query(call.request)
    batch_id = path_id(call.request, "batch_id")
    values = await json_object(call.request, ("name", "rules", "starts_at", "ends_at", "paused", "expired"))
    changes = BatchChanges(
        name=name_field(values) if "name" in values else None,
        rules=rules_field(values) if "rules" in values else None,
        starts_at=instant_field(values, "starts_at") if "starts_at" in values else UNSET,
        ends_at=instant_field(values, "ends_at") if "ends_at" in values else UNSET,
        paused=flag_field(values, "paused"),
        expired=flag_field(values, "expired"),
    )
    caller = call.caller
    batch = await change_batch(call.services.stores, batch_id, changes, client_id=caller.client_id, actor=caller.actor)
    return answer(show_batch(batch))


async def get_batch_redemptions(call: RequestContext) -> Response:
    limit, cursor = page_query(call.request)
    page = await redemptions_of_batch(
        call.services.stores.postgres,
        path_id(call.request, "batch_id"),
        client_id=call.caller.client_id,
        limit=limit,
        cursor=cursor,
    )
    return page_answer(page, show_redemption)


OPERATIONS = (
    Operation("GET", "/api/v1/batches", get_batches),
    Operation("POST", "/api/v1/batches", post_batch),
    Operation("GET", "/api/v1/batches/{batch_id}", get_batch),
    Operation("PATCH", "/api/v1/batches/{batch_id}", patch_batch),
    Operation("GET", "/api/v1/batches/{batch_id}/redemptions", get_batch_redemptions),
)
