"""The shapes of coupons and their uses, as JSON Schema."""

from __future__ import annotations

from typing import Final

from issuer.coupons.coupon import MAX_USES
from issuer.coupons.money import CURRENCIES
from issuer.http.openapi.shapes import CODE, COUNT, INSTANT, NAME, UUID, Schema, nullable, ref, shape, whole
from issuer.names import MAX_NAME

CONSUMPTION_ID: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{32}$"}
NO_UUID: Final[Schema] = {"anyOf": [UUID, {"const": ""}]}
"""Empty: as if it were not there."""
_TEXT: Final[Schema] = {"type": ["string", "null"], "maxLength": MAX_NAME}
_DECIMAL: Final[Schema] = {
    "type": ["string", "null"],
    "pattern": "^([0-9]{1,12}([.][0-9]{1,4})?)?$",
    "description": "A decimal number as text, never a float",
    "examples": ["5.00"],
}
_TERMS: Final[dict[str, Schema]] = {
    "code": CODE,
    "product_id": _TEXT,
    "promo_type": _TEXT,
    "discount_fixed": _DECIMAL,
    "currency": {"enum": [*CURRENCIES, None], "description": "ISO 4217"},
    "discount_variable": {**_DECIMAL, "description": "Percent, as text"},
}
_OFFER: Final[dict[str, Schema]] = {
    "expiry_date": {
        "type": ["string", "null"],
        "description": "15-Jan-2030 or 2030-01-15: to the end of that day in UTC; or a time with an offset",
        "examples": ["15-Jan-2030"],
    },
    "availability_count": {"type": "integer", "minimum": 1, "maximum": MAX_USES, "description": "Uses there are"},
    **{name: _TERMS[name] for name in ("product_id", "promo_type", "discount_fixed", "currency", "discount_variable")},
    "rules": nullable(ref("Rules")),
    "paused": {"type": ["boolean", "null"]},
}
_NEW_COUPON: Final[dict[str, Schema]] = {
    "code": {**_TEXT, "description": "Absent: one is drawn"},
    "code_length": whole(1, 255, "Drawn characters of a code that is drawn; 12 if absent"),
    "prefix": _TEXT,
    "suffix": _TEXT,
    "pattern": {**_TEXT, "description": "Each # is a character that is drawn"},
    "alphabet": {**_TEXT, "description": "A name (numeric, alphabetic, alphanumeric, unambiguous) or the characters"},
    "check": {"type": ["boolean", "null"], "description": "The last drawn character checks the others (Luhn mod N)"},
    **_OFFER,
    "client_id": {**nullable(NO_UUID), "description": "Needed where the key is bound to no client"},
}
_COUPON: Final[dict[str, Schema]] = {
    "id": UUID,
    "client_id": UUID,
    "code": CODE,
    "code_length": COUNT,
    **_OFFER,
    "expiry_date": nullable(INSTANT),
    "availability_count": COUNT,
    "rules": ref("ShownRules"),
    "paused": {"type": "boolean"},
    "valid": {"type": "boolean"},
    "remaining": COUNT,
    "reversed": COUNT,
    "deleted": {"type": "boolean"},
    "created_at": INSTANT,
    "updated_at": INSTANT,
}
_USE: Final[dict[str, Schema]] = {
    "code": _TEXT,
    "product_id": _TEXT,
    "customer_id": nullable(NO_UUID),
    "order_id": _TEXT,
    "client_id": nullable(NO_UUID),
}
_NO_REASON: Final[dict[str, Schema]] = {"reason": {"type": "null"}, "reason_code": {"type": "null"}}

COUPONS: Final[dict[str, Schema]] = {
    "NewCoupon": shape(_NEW_COUPON, optional=tuple(name for name in _NEW_COUPON if name != "availability_count")),
    "CouponChange": shape(_OFFER | {"client_id": nullable(NO_UUID)}, optional=(*_OFFER, "client_id")),
    "Coupon": shape(_COUPON),
    "Use": shape(_USE, optional=tuple(_USE)),
    "Consumed": shape({"consumed": {"const": True}, "consumption_id": CONSUMPTION_ID, **_TERMS}),
    "Validity": {
        "oneOf": [
            shape({"valid": {"const": True}, **_NO_REASON, "remaining": COUNT, **_TERMS}),
            shape(
                {
                    "valid": {"const": False},
                    "reason": {"type": "string"},
                    "reason_code": {"type": "string"},
                    "retry_at": INSTANT,
                },
                optional=("retry_at",),
            ),
        ]
    },
    "Reversal": shape(
        {
            "reversed": {"const": True},
            "consumption_id": CONSUMPTION_ID,
            "code": CODE,
            "order_id": nullable(NAME),
            "reversed_at": INSTANT,
        }
    ),
}
