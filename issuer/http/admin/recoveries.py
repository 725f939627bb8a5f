"""/api/v1/recoveries and /api/v1/quarantine: what was lost with a Redis server, and what became of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from starlette.responses import Response

from issuer.batches.batch import BatchNotFoundError
from issuer.http.auth import Access
from issuer.http.fields import (
    PAGED,
    json_object,
    json_response,
    page_query,
    page_response,
    path_number,
)
from issuer.http.naming import BATCH_FIELDS, CLIENT_FIELDS, named_batch, named_client
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.instants import show_instant
from issuer.recovery.history import (
    PastRecovery,
    RecoveryNotFoundError,
    accept_recovery,
    find_recovery,
    list_recoveries,
)
from issuer.recovery.quarantined_codes import QuarantinedCode, name_quarantined
from issuer.recovery.release import QuarantinedRange, list_quarantined, release

RECOVERIES: Final = "/api/v1/recoveries"
QUARANTINE: Final = "/api/v1/quarantine"


async def get_recoveries(context: RequestContext) -> Response:
    """Return a page of the recoveries, newest first."""
    limit, cursor = page_query(context.request)
    page = await list_recoveries(context.services.stores.postgres, limit=limit, cursor=cursor)
    return page_response(page, PastRecovery.to_json)


async def get_recovery(context: RequestContext) -> Response:
    epoch = path_number(context.request, "epoch")
    if epoch is None:
        raise RecoveryNotFoundError("no recovery found")
    return json_response((await find_recovery(context.services.stores.postgres, epoch)).to_json())


async def post_accept(context: RequestContext) -> Response:
    """Accept that what a recovery quarantined stays out of stock."""
    epoch = path_number(context.request, "epoch")
    if epoch is None:
        raise RecoveryNotFoundError("no recovery found")
    postgres = context.services.stores.postgres
    if await context.request.body():
        await json_object(context.request, ())

    async def show(epoch: int) -> Response:
        return json_response({"epoch": epoch})

    act = context.act(show)
    await accept_recovery(postgres, epoch, actor=context.caller.actor, act=act)
    return act.response


async def get_codes(context: RequestContext) -> Response:
    """Name the codes that a recovery quarantined, page by page. The audit log keeps who saw them."""
    epoch = path_number(context.request, "epoch")
    if epoch is None:
        raise RecoveryNotFoundError("no recovery found")
    limit, cursor = page_query(context.request)
    page = await name_quarantined(
        context.services.stores.postgres, epoch, actor=context.caller.actor, limit=limit, cursor=cursor
    )
    return page_response(page, QuarantinedCode.to_json)


async def get_quarantine(context: RequestContext) -> Response:
    """Return what was quarantined, of one batch or of all, by recovery and pool."""
    batch = await named_batch(context, context.request.query_params)
    found = await list_quarantined(context.services.stores.postgres, None if batch is None else batch.id)
    return json_response({"items": [show_range(one) for one in found], "next_cursor": None})


async def post_release(context: RequestContext) -> Response:
    """Put the quarantined codes of a batch back in stock. The caller vouches that no customer has received them."""
    values = await json_object(context.request, (*BATCH_FIELDS, *CLIENT_FIELDS, "epoch", "journals_replayed"))
    if values.get("journals_replayed") is not True:
        raise invalid(
            "journals_replayed must be true: all journals were replayed, and no old primary with these codes runs",
            "not_confirmed",
        )
    epoch = values.get("epoch")
    if epoch is not None and (type(epoch) is not int or not 0 < epoch < 2**63):
        raise invalid("epoch must be a whole number above 0")
    batch = await named_batch(context, values)
    if batch is None:
        raise BatchNotFoundError("no batch found")
    act = context.act(_show_released)
    await release(
        context.services.stores,
        batch.id,
        client_id=await named_client(context, values),
        epoch=epoch,
        actor=context.caller.actor,
        act=act,
    )
    return act.response


async def _show_released(codes: int) -> Response:
    return json_response({"released": codes})


def show_range(found: QuarantinedRange) -> dict[str, Any]:
    shown = asdict(found) | {"quarantined_at": show_instant(found.quarantined_at)}
    del shown["pool_id"]
    return shown


OPERATIONS: Final = (
    Operation("GET", RECOVERIES, get_recoveries, Access.OPERATOR, query=PAGED),
    Operation("GET", RECOVERIES + "/{epoch}", get_recovery, Access.OPERATOR),
    Operation("POST", RECOVERIES + "/{epoch}/accept", post_accept, Access.OPERATOR),
    Operation("GET", RECOVERIES + "/{epoch}/codes", get_codes, Access.OPERATOR, query=PAGED),
    Operation("GET", QUARANTINE, get_quarantine, Access.OPERATOR, query=BATCH_FIELDS),
    Operation("POST", QUARANTINE + "/release", post_release, Access.OPERATOR),
)
