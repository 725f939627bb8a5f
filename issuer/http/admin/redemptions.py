"""Look up redemptions by code or customer: /api/v1/codes/{code} and /api/v1/customers/{customer_id}."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, identify, json_response, page_query, page_response
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError
from issuer.instants import show_instant
from issuer.ledger.erasure import erase_customer
from issuer.ledger.redemptions import CodePlace, LedgerEntry, places_of_code, redemptions_of_customer

BACKLOG_WAIT_S: Final = 5.0
"""Longest wait of an erasure for the customer's redemptions to reach the ledger."""


def show_redemption(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "redemption_id": entry.redemption_id,
        "batch_id": entry.batch_id,
        "batch_name": entry.batch_name,
        "client_id": entry.client_id,
        "client_name": entry.client_name,
        "seq": entry.seq,
        "code": entry.code,
        "customer_id": entry.customer_id,
        "customer": entry.customer,
        "redeemed_at": show_instant(entry.redeemed_at),
        **show_attributes(entry.attributes),
    }


def show_place(place: CodePlace) -> dict[str, Any]:
    return {
        "batch_id": place.batch_id,
        "batch_name": place.batch_name,
        "client_id": place.client_id,
        "client_name": place.client_name,
        "seq": place.seq,
        "code": place.code,
        "state": place.state,
        "redemption_id": place.redemption_id,
        "customer_id": place.customer_id,
        "customer": place.customer,
        "redeemed_at": None if place.redeemed_at is None else show_instant(place.redeemed_at),
        **show_attributes(place.attributes),
    }


def show_attributes(attributes: dict[str, str] | None) -> dict[str, Any]:
    """Return the field `attributes` of a code; none, if it has none."""
    return {} if attributes is None else {"attributes": attributes}


async def get_code(context: RequestContext) -> Response:
    """Return the batches that contain a code. A code of another client gets the same 404 as an unknown code."""
    limit, cursor = page_query(context.request)
    code, caller = str(context.request.path_params["code"]), context.caller
    with context.services.lookup_limits.attempt(caller.key, caller.address) as attempt:
        page = await places_of_code(
            context.services.stores, code, client_id=caller.client_id, limit=limit, cursor=cursor
        )
        if not page.items:
            await attempt.failed()
            if cursor is None:
                raise ProblemError(404, "no code found", "code_not_found")
    return page_response(page, show_place)


async def get_customer_redemptions(context: RequestContext) -> Response:
    limit, cursor = page_query(context.request)
    page = await redemptions_of_customer(
        context.services.stores.postgres,
        _customer(context),
        client_id=context.caller.client_id,
        limit=limit,
        cursor=cursor,
    )
    return page_response(page, show_redemption)


async def delete_customer(context: RequestContext) -> Response:
    """Erase a customer's id from the ledger. The redemptions stay and are still counted."""
    erasure = await erase_customer(
        context.services.stores, _customer(context), actor=context.caller.actor, wait_s=BACKLOG_WAIT_S
    )
    return json_response(asdict(erasure))


def _customer(context: RequestContext) -> UUID:
    return identify(context.services.stores, context.request.path_params["customer_id"], "customer_id").uuid


OPERATIONS = (
    # A code may contain any character, including slashes.
    Operation("GET", "/api/v1/codes/{code:code}", get_code, query=PAGED),
    Operation("GET", "/api/v1/customers/{customer_id:id}/redemptions", get_customer_redemptions, query=PAGED),
    Operation("DELETE", "/api/v1/customers/{customer_id:id}", delete_customer, Access.OPERATOR),
)
