"""JSON Schemas of coupons and their uses."""

from __future__ import annotations

from typing import Final

from issuer.coupons.coupon import MAX_USES
from issuer.http.openapi.shapes import (
    CLIENT_NAME,
    CODE,
    COUNT,
    GIVEN_ID,
    INSTANT,
    NAME,
    RATES,
    UUID,
    Schema,
    count,
    described,
    nullable,
    ref,
    shape,
)
from issuer.money import CURRENCIES
from issuer.names import MAX_NAME

CONSUMPTION_ID: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{32}$"}
NO_ID: Final[Schema] = {"anyOf": [GIVEN_ID, {"const": ""}]}
"""An id; an empty text counts as absent."""
_SPACE: Final = "[\\s\\u001c-\\u001f\\u0085]"
_TEXT: Final[Schema] = {"type": ["string", "null"], "pattern": f"^{_SPACE}*[\\s\\S]{{0,{MAX_NAME}}}{_SPACE}*$"}
"""A text; white space at its ends does not count."""
_DECIMAL: Final[Schema] = {
    "type": ["string", "null"],
    "pattern": "^([0-9]{1,12}([.][0-9]{1,4})?)?$",
    "examples": ["5.00"],
}
_AMOUNT: Final = "An amount of `currency`"
_PERCENTAGE: Final = "A percentage"


def _whole(least: int, most: int, description: str, *, needed: bool = False) -> Schema:
    """Return the schema of a whole number in a request. Unless `needed`, null and an empty text count as absent."""
    digits = f"^\\s*0*[0-9]{{{int(needed)},{len(str(most))}}}\\s*$"
    number = {"type": "integer" if needed else ["integer", "null"], "minimum": least, "maximum": most}
    text = {"type": "string", "pattern": digits}
    return described({"anyOf": [number, text]}, f"{description}. A JSON number, or its digits as text")


def _flag(description: str) -> Schema:
    return described({"enum": [True, False, None, "true", "false"]}, description)


def _asked(description: str) -> Schema:
    """Return the schema of a decimal number in a request."""
    text = {**_DECIMAL, "pattern": "^\\s*([0-9]{1,12}([.][0-9]{1,4})?)?\\s*$"}
    number = {"type": "number", "exclusiveMinimum": 0}
    return described({"anyOf": [text, number]}, f"{description}, as text or as a JSON number; no digit is lost")


_TERMS: Final[dict[str, Schema]] = {
    "code": CODE,
    "product_id": described(_TEXT, "The product that the coupon is for"),
    "promo_type": described(_TEXT, "A label of the promotion"),
    "discount_fixed": described(_DECIMAL, f"{_AMOUNT}, as text"),
    "currency": {"enum": [*CURRENCIES, None], "description": "An ISO 4217 code"},
    "discount_variable": described(_DECIMAL, f"{_PERCENTAGE}, as text"),
}
_USES: Final = "Number of uses"
_OFFER: Final[dict[str, Schema]] = {
    "expiry_date": {
        "type": ["string", "null"],
        "description": "A day (15-Jan-2030 or 2030-01-15), valid until its end in UTC; or a time, in UTC if it has no "
        "offset; 9999-12-31: without end",
        "examples": ["15-Jan-2030"],
    },
    "availability_count": _whole(1, MAX_USES, _USES, needed=True),
    **{name: _TERMS[name] for name in ("product_id", "promo_type")},
    "currency": {"enum": [*CURRENCIES, "", None], "description": "An ISO 4217 code"},
    "discount_fixed": _asked(_AMOUNT),
    "discount_variable": _asked(_PERCENTAGE),
    "rules": described(
        {"anyOf": [ref("Rules"), {"enum": [None, ""]}]}, "Limits per customer; in a query or a form as JSON text"
    ),
    "paused": _flag("true: uses are refused"),
}
_OF_NEW: Final[dict[str, Schema]] = {
    "alphabet": described(
        _TEXT, "`numeric`, `alphabetic`, `alphanumeric`, `unambiguous`, or the characters themselves"
    ),
    "case_sensitive": _flag("true: look-ups distinguish upper and lower case. Cannot be changed"),
    **_OFFER,
    "client_id": described(nullable(NO_ID), "Required unless the API key is bound to a client or there is a default"),
}
_DRAWN: Final[dict[str, Schema]] = {
    "code": {"type": ["string", "null"], "pattern": "^\\s*$", "description": "Absent or empty: a code is drawn"},
    "code_length": _whole(
        1,
        255,
        "Number of drawn characters; 12 if absent. At least 6, or what makes 500,000,000 codes of another alphabet",
    ),
    "prefix": described(_TEXT, "Text before the drawn characters"),
    "suffix": described(_TEXT, "Text after the drawn characters"),
    "pattern": described(_TEXT, "Each # is replaced by a drawn character"),
    "check": _flag("The last drawn character is a check character (Luhn mod N)"),
    **_OF_NEW,
}
_NOTHING: Final[Schema] = {"enum": [None, ""], "description": "Only for a code that is drawn"}
_GIVEN: Final[dict[str, Schema]] = {
    "code": described(CODE, "The code"),
    "code_length": {"description": "Ignored: the code is given"},
    **dict.fromkeys(("prefix", "suffix", "pattern", "check"), _NOTHING),
    **_OF_NEW,
}
_CHANGE: Final[dict[str, Schema]] = {
    **_OFFER,
    "availability_count": _whole(
        0, MAX_USES, f"{_USES}; null leaves it as it is. No more than were used stops the coupon"
    ),
    "case_sensitive": _flag("Cannot be changed: refused unless it is what the coupon has"),
    "client_id": nullable(NO_ID),
}
_COUPON: Final[dict[str, Schema]] = {
    "id": UUID,
    "client_id": UUID,
    "client_name": CLIENT_NAME,
    "code": CODE,
    "code_length": COUNT,
    "case_sensitive": {"type": "boolean", "description": "Look-ups distinguish upper and lower case"},
    "expiry_date": described(nullable(INSTANT), "The first instant at which the coupon is no longer valid"),
    "availability_count": count(_USES),
    **{name: schema for name, schema in _TERMS.items() if name != "code"},
    "rules": ref("ShownRules"),
    "paused": {"type": "boolean", "description": "true: uses are refused"},
    "valid": {"type": "boolean", "description": "Neither expired nor paused nor used up"},
    "remaining": count("Uses that are left"),
    "used": count("Uses that count against `availability_count`; more than that if it was lowered later"),
    "reversed": count("Uses that were reversed"),
    **RATES,
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
    "NewCoupon": {
        "anyOf": [
            shape(_GIVEN, optional=tuple(_GIVEN.keys() - {"code", "availability_count"}), closed=False),
            shape(_DRAWN, optional=tuple(_DRAWN.keys() - {"availability_count"}), closed=False),
        ]
    },
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
