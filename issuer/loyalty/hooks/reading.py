"""What a delivery says, whatever the shop: a pure function of kind, headers and body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from issuer.loyalty.bounds import MAX_POINTS
from issuer.loyalty.hooks import shopify, square, standard, woocommerce
from issuer.loyalty.hooks.body import MAX_AMOUNT, ShopBodyError
from issuer.loyalty.hooks.events import MAX_TEXT, Delivery, OrderPaid, OrderRefunded, ShopEvent, ShopKind
from issuer.money import from_minor

_READERS = {
    ShopKind.SHOPIFY: shopify.read_delivery,
    ShopKind.WOOCOMMERCE: woocommerce.read_delivery,
    ShopKind.SQUARE: square.read_delivery,
    ShopKind.STANDARD: standard.read_delivery,
}


def read_delivery(kind: ShopKind, headers: Mapping[str, str], raw: bytes) -> Delivery:
    """Return what a verified delivery says. `headers`: by name in lower case. Raises ShopBodyError.

    Its amounts, which may be sums and parts of what it says, are within the bounds of an account.
    """
    try:
        delivery = _READERS[kind](headers, raw)
    except ArithmeticError as error:
        raise ShopBodyError("the amounts cannot be computed with") from error
    if not 1 <= len(delivery.id) <= MAX_TEXT:
        raise ShopBodyError(f"the id of the delivery must have 1 to {MAX_TEXT} characters")
    for event in delivery.events:
        _check_amount(event)
    return replace(delivery, topic=delivery.topic[:MAX_TEXT])


def _check_amount(event: ShopEvent) -> None:
    """Check that the amount can be counted in minor units. Of a refund that names no currency the order bounds it."""
    if not isinstance(event, OrderPaid | OrderRefunded):
        return
    most = MAX_AMOUNT if event.currency is None else from_minor(MAX_POINTS, event.currency)
    if event.amount > most:
        raise ShopBodyError(f"the amount must be at most {most:f} {event.currency or ''}".rstrip())
