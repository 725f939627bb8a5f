"""/coupon/: create, show, change and delete coupons. `consume` has the routes that use them."""

from __future__ import annotations

from typing import Final

import structlog
from starlette.responses import Response

from issuer.coupons.coupon import Coupon, CouponNotFoundError
from issuer.coupons.creation import create_described
from issuer.coupons.fields import Fields, code_field, flag_field, terms_fields, text_field
from issuer.coupons.store import change_coupon, delete_coupon, find_coupon, show_coupon
from issuer.http.auth import Access
from issuer.http.coupons.fields import identity_field, read_fields
from issuer.http.fields import json_response
from issuer.http.naming import owner_of_codes
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid

log = structlog.get_logger()

CASE_IS_DECIDED: Final = ProblemError(
    409,
    "case_sensitive is decided when a coupon is created",
    "case_sensitivity_fixed",
    detail="the place of a coupon in Redis depends on it: create another coupon, and stop or delete this one",
)


async def post_coupon(context: RequestContext) -> Response:
    values = await read_fields(context.request)
    client_id = await owner_of_codes(context, {"client_id": text_field(values, "client_id")})
    if client_id is None:
        raise invalid("client_id is required where the api key is bound to no client")

    async def show(coupon: Coupon) -> Response:
        return json_response(await show_coupon(context.services.stores, coupon), 201)

    act = context.act(show)
    await create_described(context.services.stores, client_id, values, actor=context.caller.actor, act=act)
    return act.response


async def _requested_coupon(context: RequestContext, values: Fields, code: str) -> Coupon:
    requested_id = identity_field(context.services.stores, values, "client_id")
    client_id = context.caller.client_id or requested_id
    postgres = context.services.stores.postgres
    if requested_id not in (None, client_id):
        # A coupon of another client looks like an unknown one: no coupon has an empty code.
        code = ""
    return await find_coupon(postgres, code, client_id=client_id)


async def get_coupon(context: RequestContext) -> Response:
    values = await read_fields(context.request)
    with context.services.lookup_limits.attempt(context.caller.key, context.caller.address) as attempt:
        try:
            coupon = await _requested_coupon(context, values, code_field(values))
        except CouponNotFoundError:
            await attempt.failed()
            raise
        return json_response(await show_coupon(context.services.stores, coupon))


async def put_coupon(context: RequestContext) -> Response:
    """Change a coupon. Absent fields keep their values; the response is sent once the change is in effect."""
    values = await read_fields(context.request)
    coupon = await _requested_coupon(context, values, code_field(context.request.path_params))
    if flag_field(values, "case_sensitive") not in (None, coupon.case_sensitive):
        raise CASE_IS_DECIDED
    currency = context.services.settings.currency
    coupon = await change_coupon(
        context.services.stores, coupon, lambda terms: terms_fields(values, terms, currency), actor=context.caller.actor
    )
    return json_response(await show_coupon(context.services.stores, coupon))


async def remove_coupon(context: RequestContext) -> Response:
    values = await read_fields(context.request)
    coupon = await _requested_coupon(context, values, code_field(context.request.path_params))
    coupon = await delete_coupon(context.services.stores, coupon, actor=context.caller.actor)
    return json_response(await show_coupon(context.services.stores, coupon))


OPERATIONS: Final = (
    Operation("POST", "/coupon/", post_coupon, lenient=True),
    Operation("GET", "/coupon/", get_coupon, Access.ANY_KEY, lenient=True),
    # A code may contain any character, including slashes.
    Operation("PUT", "/coupon/{code:code}/", put_coupon, lenient=True),
    Operation("DELETE", "/coupon/{code:code}/", remove_coupon, lenient=True),
)
