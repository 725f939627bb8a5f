"""/coupon/: create, show, change and delete coupons. `consume` has the routes that use them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from starlette.responses import Response

from issuer.coupons.coupon import Coupon, CouponExistsError, CouponNotFoundError, CouponTerms
from issuer.coupons.store import change_coupon, count_used, create_coupon, delete_coupon, find_coupon
from issuer.generating.alphabets import AlphabetName
from issuer.generating.code_source import FewCodesError, draw_code
from issuer.http.auth import Access
from issuer.http.coupons.fields import (
    Fields,
    code_field,
    code_format,
    flag_field,
    identity_field,
    is_usable_code,
    new_code,
    read_fields,
    terms_fields,
    text_field,
)
from issuer.http.fields import json_response
from issuer.http.naming import owner_of_codes
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.instants import show_instant
from issuer.storage.acts import Act

log = structlog.get_logger()

CASE_IS_DECIDED: Final = ProblemError(
    409,
    "case_sensitive is decided when a coupon is created",
    "case_sensitivity_fixed",
    detail="the place of a coupon in Redis depends on it: create another coupon, and stop or delete this one",
)
DRAWS: Final = 5
"""Draws before giving up: that many codes in a row that are taken mean that nearly all of the form are."""


async def show_coupon(context: RequestContext, coupon: Coupon) -> dict[str, Any]:
    used = await count_used(context.services.stores, coupon)
    remaining = max(0, coupon.terms.available - used)
    return {
        "id": coupon.id,
        "client_id": coupon.client_id,
        "client_name": coupon.client_name,
        "code": coupon.code,
        "code_length": len(coupon.code),
        "case_sensitive": coupon.case_sensitive,
        **coupon.terms.to_json(),
        "valid": remaining > 0 and not coupon.expired and not coupon.terms.paused,
        "remaining": remaining,
        "used": used,
        "reversed": coupon.reversed,
        "deleted": coupon.ended_at is not None,
        "created_at": show_instant(coupon.created_at),
        "updated_at": show_instant(coupon.updated_at),
    }


async def post_coupon(context: RequestContext) -> Response:
    values = await read_fields(context.request)
    client_id = await owner_of_codes(context, {"client_id": text_field(values, "client_id")})
    if client_id is None:
        raise invalid("client_id is required where the api key is bound to no client")
    terms = CouponTerms(**terms_fields(values, None, context.services.settings.currency))

    async def show(coupon: Coupon) -> Response:
        return json_response(await show_coupon(context, coupon), 201)

    act = context.act(show)
    await _create(context, client_id, values, terms, act)
    return act.response


async def _create(
    context: RequestContext, client_id: UUID, values: Fields, terms: CouponTerms, act: Act[Coupon]
) -> None:
    case_sensitive = flag_field(values, "case_sensitive") or False
    create = partial(
        create_coupon, context.services.stores, client_id, case_sensitive=case_sensitive, actor=context.caller.actor,
        act=act,
    )  # fmt: skip
    if (code := new_code(values)) is not None:
        unambiguous = text_field(values, "alphabet") == AlphabetName.UNAMBIGUOUS and not case_sensitive
        await create(code, terms, unambiguous=unambiguous)
        return
    form = code_format(values)
    unambiguous = form.alphabet == AlphabetName.UNAMBIGUOUS and not case_sensitive
    for draw in range(1, DRAWS + 1):
        try:
            code = await asyncio.to_thread(draw_code, form)
            if not is_usable_code(code):
                raise invalid("codes of this form may have no letters or digits, or may be the word consume")
            await create(code, terms, unambiguous=unambiguous)
        except FewCodesError as error:
            raise invalid(str(error)) from error
        except CouponExistsError:
            if draw == DRAWS:
                raise
        else:
            return


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
        return json_response(await show_coupon(context, coupon))


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
    return json_response(await show_coupon(context, coupon))


async def remove_coupon(context: RequestContext) -> Response:
    values = await read_fields(context.request)
    coupon = await _requested_coupon(context, values, code_field(context.request.path_params))
    coupon = await delete_coupon(context.services.stores, coupon, actor=context.caller.actor)
    return json_response(await show_coupon(context, coupon))


OPERATIONS: Final = (
    Operation("POST", "/coupon/", post_coupon, lenient=True),
    Operation("GET", "/coupon/", get_coupon, Access.ANY_KEY, lenient=True),
    # A code may contain any character, including slashes.
    Operation("PUT", "/coupon/{code:code}/", put_coupon, lenient=True),
    Operation("DELETE", "/coupon/{code:code}/", remove_coupon, lenient=True),
)
