"""What a form says about a coupon, as the fields of the API, and where refusals of the API belong in the form."""

from __future__ import annotations

from typing import Any, Final

from issuer.coupons.coupon import MAX_USES, Coupon
from issuer.http.console.batches.batch_form import read_rules
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.pages.zones import local_input
from issuer.instants import show_instant
from issuer.money import show_decimal

PERCENT: Final = "percent"
AMOUNT: Final = "amount"
_PLACES: Final = {
    "availability_count": ("uses", "the number of uses"),
    "discount_fixed": ("discount", "the amount"),
    "discount_variable": ("discount", "the percentage"),
    "currency": ("currency", "the currency"),
    "expiry_date": ("ends", "the end"),
    "product_id": ("product", "the product"),
    "code": ("code", "the code"),
}
"""The field of the form, and its name in words, by the field of the API with which a refusal begins."""


def read_coupon(typed: TypedForm, before: Coupon | None = None) -> dict[str, Any]:
    """Return the fields of the API that change; `typed.errors` has what is wrong."""
    values: dict[str, Any] = {}
    if typed.changed("uses"):
        values["availability_count"] = typed.needed_number("uses", least=0 if before else 1, most=MAX_USES)
    if typed.changed("ends", "zone"):
        ends_at = typed.instant("ends")
        values["expiry_date"] = None if ends_at is None else show_instant(ends_at)
    if typed.changed("product"):
        values["product_id"] = typed.text("product")
    if typed.changed("kind", "discount", "currency"):
        values |= _read_worth(typed)
    if typed.changed("limit", "window"):
        values["rules"] = read_rules(typed, *([before.terms.rules] if before else [])).to_json()
    return values


def _read_worth(typed: TypedForm) -> dict[str, str]:
    is_percent, discount = typed.text("kind") == PERCENT, typed.text("discount")
    if not discount:
        typed.refuse("discount", "say what the coupon is worth")
    return {
        "discount_variable": discount if is_percent else "",
        "discount_fixed": "" if is_percent else discount,
        **({} if is_percent else {"currency": typed.text("currency")}),
    }


def refuse(typed: TypedForm, message: str) -> None:
    """Put a refusal of the API beside the field that it is about."""
    name, _, rest = message.partition(" ")
    place, words = _PLACES.get(name.rstrip(":"), ("code", ""))
    typed.refuse(place, f"{words} {rest}" if words else message)


def fields_of(coupon: Coupon, zone: str) -> dict[str, str]:
    """Return the form of a coupon as it is."""
    terms = coupon.terms
    percent, fixed = terms.discount_variable, terms.discount_fixed
    value = percent if percent is not None else fixed
    return {
        "uses": str(terms.available),
        "kind": PERCENT if fixed is None else AMOUNT,
        "discount": "" if value is None else show_decimal(value),
        "currency": terms.currency or "",
        "product": terms.product_id or "",
        "limit": str(terms.rules.maxpercustomer or ""),
        "window": str(terms.rules.timelimit_days or 0),
        "ends": local_input(terms.expires_at, zone),
        "zone": zone,
    }
