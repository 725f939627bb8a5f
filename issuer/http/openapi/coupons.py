"""The coupon API in the OpenAPI document."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.coupon_schemas import CONSUMPTION_ID, NO_UUID
from issuer.http.openapi.parts import IDEMPOTENCY_KEY, ok, operation, path_parameter
from issuer.http.openapi.shapes import CODE, Schema, ref

_ANY_WAY: Final = "Fields may stand in the query, in a form (urlencoded or multipart) or in JSON, as here."


def _query(name: str, schema: Schema, description: str = "", *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": description}


_CODE: Final = _query("code", CODE, "In any case, with or without spaces and dashes", required=True)
_CLIENT: Final = _query("client_id", NO_UUID, "Needed where the key is bound to no client and several have this code")
_PRODUCT: Final = _query("product_id", {"type": "string", "maxLength": 255})
_CUSTOMER: Final = _query("customer_id", NO_UUID, "Whose limits count; absent: nobody's")
_ORDER: Final = _query("order_id", {"type": "string", "maxLength": 255}, "Kept in the ledger")


def _body(name: str, *, required: bool = True) -> Schema:
    return {"required": required, "description": _ANY_WAY, "content": {"application/json": {"schema": ref(name)}}}


def coupon_paths() -> dict[str, Schema]:
    """The paths below /coupon/."""
    coupon = ok("The coupon", ref("Coupon"))
    named = [path_parameter("code", CODE)]
    replayed = {"Idempotency-Replayed": {"description": "It was used before", "schema": {"const": "true"}}}
    return {
        "/coupon/": {
            "post": operation("coupons", "Make a coupon", {201: coupon}, 409, operationId="createCoupon",
                              requestBody=_body("NewCoupon")),
            "get": operation("coupons", "Show a coupon", {200: coupon}, 404, 409, operationId="showCoupon",
                             parameters=[_CODE, _CLIENT]),
        },
        "/coupon/{code}/": {
            "parameters": named,
            "put": operation("coupons", "Change a coupon", {200: coupon}, 404, 409, operationId="changeCoupon",
                             requestBody=_body("CouponChange", required=False),
                             description="Answers when the change counts. What is not given stays as it is; null, "
                             "or an empty field of a form, takes a value away."),
            "delete": operation("coupons", "Delete a coupon", {200: coupon}, 404, 409, operationId="deleteCoupon",
                                parameters=[_CLIENT],
                                description="It is valid no longer, for good. What was used stays in the ledger."),
        },
        "/coupon/consume/": {
            "get": operation("coupons", "Could the coupon be used", {200: ok("Yes or no", ref("Validity"))}, 409,
                             operationId="validateCoupon",
                             parameters=[_CODE, _PRODUCT, _CUSTOMER, _ORDER, _CLIENT],
                             description="Changes nothing."),
            "post": operation("coupons", "Use a coupon",
                              {200: ok("It was used", ref("Consumed"), headers=replayed)}, 404, 409, 410, 422,
                              operationId="consumeCoupon",
                              parameters=[_CODE | {"required": False}, _PRODUCT, _CUSTOMER, _ORDER, _CLIENT,
                                          IDEMPOTENCY_KEY],
                              requestBody=_body("Use", required=False)),
        },
        "/coupon/consume/{consumption_id}/reverse": {
            "parameters": [path_parameter("consumption_id", CONSUMPTION_ID)],
            "post": operation("coupons", "Give a use back, once", {200: ok("It was given back", ref("Reversal"))},
                              404, 409, operationId="reverseConsumption"),
        },
    }  # fmt: skip
