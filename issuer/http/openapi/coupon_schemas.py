"""JSON Schemas of coupons and their uses."""

from __future__ import annotations

from typing import Final

from issuer.coupons.coupon import MAX_USES
from issuer.coupons.money import CURRENCIES
from issuer.http.openapi.shapes import (
    CLIENT_NAME,
    CODE,
    COUNT,
    GIVEN_ID,
    INSTANT,
    NAME,
    UUID,
    Schema,
    count,
    described,
    nullable,
    ref,
    shape,
    whole,
)
from issuer.names import MAX_NAME

CONSUMPTION_ID: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{32}$"}
NO_ID: Final[Schema] = {"anyOf": [GIVEN_ID, {"const": ""}]}
"""An id; an empty text counts as absent."""
_TEXT: Final[Schema] = {"type": ["string", "null"], "maxLength": MAX_NAME}
_DECIMAL: Final[Schema] = {
    "type": ["string", "null"],
    "pattern": "^([0-9]{1,12}([.][0-9]{1,4})?)?$",
    "examples": ["5.00"],
}
_AMOUNT: Final = "An amount of `currency`"
_PERCENTAGE: Final = "A percentage"


def _asked(description: str) -> Schema:
    """Return the schema of a decimal number in a request."""
    number = {"type": "number", "exclusiveMinimum": 0}
    return described({"anyOf": [_DECIMAL, number]}, f"{description}, as text or as a JSON number; no digit is lost")


_TERMS: Final[dict[str, Schema]] = {
    "code": CODE,
    "product_id": described(_TEXT, "The product that the coupon is for"),
    "promo_type": described(_TEXT, "A label of the promotion"),
    "discount_fixed": described(_DECIMAL, f"{_AMOUNT}, as text"),
    "currency": {"enum": [*CURRENCIES, None], "description": "An ISO 4217 code"},
    "discount_variable": described(_DECIMAL, f"{_PERCENTAGE}, as text"),
}
_OFFER: Final[dict[str, Schema]] = {
    "expiry_date": {
        "type": ["string", "null"],
        "description": "A day (15-Jan-2030 or 2030-01-15), valid until its end in UTC; or a time, in UTC if it has no "
        "offset; 9999-12-31: without end",
        "examples": ["15-Jan-2030"],
    },
    "availability_count": {"type": "integer", "minimum": 1, "maximum": MAX_USES, "description": "Number of uses"},
    **{name: _TERMS[name] for name in ("product_id", "promo_type", "currency")},
    "discount_fixed": _asked(_AMOUNT),
    "discount_variable": _asked(_PERCENTAGE),
    "rules": described(nullable(ref("Rules")), "Limits per customer"),
    "paused": {"type": ["boolean", "null"], "description": "true: uses are refused"},
}
_NEW_COUPON: Final[dict[str, Schema]] = {
    "code": described(_TEXT, "If absent, a code is drawn"),
    "code_length": whole(
        1,
        255,
        "Number of drawn characters; 12 if absent. At least 6, or what makes 500,000,000 codes of another alphabet",
    ),
    "prefix": described(_TEXT, "Text before the drawn characters"),
    "suffix": described(_TEXT, "Text after the drawn characters"),
    "pattern": described(_TEXT, "Each # is replaced by a drawn character"),
    "alphabet": described(
        _TEXT, "`numeric`, `alphabetic`, `alphanumeric`, `unambiguous`, or the characters themselves"
    ),
    "check": {
        "type": ["boolean", "null"],
        "description": "The last drawn character is a check character (Luhn mod N)",
    },
    "case_sensitive": {
        "type": ["boolean", "null"],
        "description": "true: look-ups distinguish upper and lower case. Cannot be changed",
    },
    **_OFFER,
    "client_id": described(nullable(NO_ID), "Required unless the API key is bound to a client or there is a default"),
}
_CHANGE: Final[dict[str, Schema]] = {
    **_OFFER,
    "availability_count": {
        "type": ["integer", "null"],
        "minimum": 0,
        "maximum": MAX_USES,
        "description": "Number of uses; null leaves it as it is. No more than were used stops the coupon",
    },
    "client_id": nullable(NO_ID),
}
_COUPON: Final[dict[str, Schema]] = {
    "id": UUID,
    "client_id": UUID,
    "client_name": CLIENT_NAME,
    "code": CODE,
    "code_length": COUNT,
    "case_sensitive": {"type": "boolean", "description": "Look-ups distinguish upper and lower case"},
    **_OFFER,
    **{name: _TERMS[name] for name in ("discount_fixed", "discount_variable")},
    "expiry_date": described(nullable(INSTANT), "The first instant at which the coupon is no longer valid"),
    "availability_count": count("Number of uses"),
    "rules": ref("ShownRules"),
    "paused": {"type": "boolean", "description": "true: uses are refused"},
    "valid": {"type": "boolean", "description": "Neither expired nor paused nor used up"},
    "remaining": count("Uses that are left"),
    "used": count("Uses that count against `availability_count`; more than that if it was lowered later"),
    "reversed": count("Uses that were reversed"),
    "deleted": {"type": "boolean"},
    "created_at": INSTANT,
    "updated_at": INSTANT,
}
_USE: Final[dict[str, Schema]] = {
    "code": _TEXT,
    "product_id": _TEXT,
    "customer_id": described(nullable(NO_ID), "The customer whose limits apply; absent: no limits apply"),
    "order_id": described(_TEXT, "The caller's id of the order, recorded in the ledger"),
    "client_id": described(nullable(NO_ID), "The owner of the coupon, if several clients have this code"),
}
_NO_REASON: Final[dict[str, Schema]] = {"reason": {"type": "null"}, "reason_code": {"type": "null"}}

COUPONS: Final[dict[str, Schema]] = {
    "NewCoupon": shape(
        _NEW_COUPON, optional=tuple(name for name in _NEW_COUPON if name != "availability_count"), closed=False
    ),
    "CouponChange": shape(_CHANGE, optional=tuple(_CHANGE), closed=False),
    "Coupon": shape(_COUPON),
    "Use": shape(_USE, optional=tuple(_USE), closed=False),
    "Consumed": shape(
        {"consumed": {"const": True, "description": "The use was granted"}, "consumption_id": CONSUMPTION_ID, **_TERMS}
    ),
    "Validity": {
        "oneOf": [
            shape(
                {
                    "valid": {"const": True, "description": "It can be used now"},
                    **_NO_REASON,
                    "remaining": COUNT,
                    **_TERMS,
                }
            ),
            shape(
                {
                    "valid": {"const": False, "description": "It cannot be used now"},
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
            "reversed": {"const": True, "description": "The use is available again"},
            "consumption_id": CONSUMPTION_ID,
            "code": CODE,
            "order_id": nullable(NAME),
            "reversed_at": INSTANT,
        }
    ),
}
