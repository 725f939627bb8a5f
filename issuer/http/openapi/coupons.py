"""The coupon routes in the OpenAPI document."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.coupon_schemas import CONSUMPTION_ID, NO_ID
from issuer.http.openapi.parts import IDEMPOTENCY_KEY, example_content, ok, operation, path_parameter
from issuer.http.openapi.shapes import CODE, Schema, ref

_ENCODINGS: Final = "Fields may be in the query, in a form (urlencoded or multipart), or in JSON as shown here."

_USE_SCOPES: Final = "Requires the scope `redeem` or `public`."


def _query(name: str, schema: Schema, description: str = "", *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": description}


_CODE: Final = _query("code", CODE, "Case, spaces, dashes and invisible characters are ignored", required=True)
_CLIENT: Final = _query(
    "client_id", NO_ID, "Required if the API key is not bound to a client and several clients have this code"
)
_PRODUCT: Final = _query("product_id", {"type": "string", "maxLength": 255}, "Must be the product of the coupon")
_CUSTOMER: Final = _query("customer_id", NO_ID, "The customer whose limits apply; absent: no limits apply")
_ORDER: Final = _query(
    "order_id", {"type": "string", "maxLength": 255}, "The caller's id of the order, recorded in the ledger"
)


def _body(name: str, *, required: bool = True) -> Schema:
    return {"required": required, "description": _ENCODINGS, **example_content(name)}


def coupon_paths() -> dict[str, Schema]:
    """Return the paths below /coupon/."""
    coupon = ok("The coupon", ref("Coupon"))
    named = [path_parameter("code", CODE)]
    replayed = {
        "Idempotency-Replayed": {
            "description": "Present if this is a replay of an earlier use",
            "schema": {"const": "true"},
        }
    }
    return {
        "/coupon/": {
            "post": operation("coupons", "Create a coupon", {201: coupon}, 404, 409, operationId="createCoupon",
                              requestBody=_body("NewCoupon"),
                              description="The response is sent once the coupon can be used."),
            "get": operation("coupons", "Show a coupon", {200: coupon}, 404, 409, operationId="showCoupon",
                             parameters=[_CODE, _CLIENT], description="Requires the scope `redeem` or `admin`."),
        },
        "/coupon/{code}/": {
            "parameters": named,
            "put": operation("coupons", "Change a coupon", {200: coupon}, 404, 409, operationId="changeCoupon",
                             requestBody=_body("CouponChange", required=False),
                             description="The response is sent once the change is in effect. Absent fields keep their "
                             "values; null, or an empty field of a form, removes a value."),
            "delete": operation("coupons", "Delete a coupon", {200: coupon}, 404, 409, operationId="deleteCoupon",
                                parameters=[_CLIENT],
                                description="The coupon becomes invalid permanently. Its uses stay in the ledger."),
        },
        "/coupon/consume/": {
            "get": operation("coupons", "Check whether a coupon can be used", {200: ok("The result", ref("Validity"))},
                             409, operationId="validateCoupon",
                             parameters=[_CODE, _PRODUCT, _CUSTOMER, _ORDER, _CLIENT],
                             description=f"This does not use the coupon. {_USE_SCOPES}"),
            "post": operation("coupons", "Use a coupon",
                              {200: ok("The use", ref("Consumed"), headers=replayed)}, 404, 409, 410, 422,
                              operationId="consumeCoupon",
                              parameters=[_CODE | {"required": False}, _PRODUCT, _CUSTOMER, _ORDER, _CLIENT,
                                          IDEMPOTENCY_KEY],
                              requestBody=_body("Use", required=False), description=_USE_SCOPES),
        },
        "/coupon/consume/{consumption_id}/reverse": {
            "parameters": [path_parameter("consumption_id", CONSUMPTION_ID)],
            "post": operation("coupons", "Reverse a use", {200: ok("The reversal", ref("Reversal"))},
                              404, 409, operationId="reverseConsumption",
                              description="A use can be reversed once. It is available again, and no longer counts "
                              "against the limits of the customer. Requires the scope `redeem`."),
        },
    }  # fmt: skip
