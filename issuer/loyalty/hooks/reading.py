"""What a delivery says, whatever the shop: a pure function of kind, headers and body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from issuer.loyalty.hooks import shopify, square, standard, woocommerce
from issuer.loyalty.hooks.body import ShopBodyError
from issuer.loyalty.hooks.events import MAX_TEXT, Delivery, ShopKind

_READERS = {
    ShopKind.SHOPIFY: shopify.read_delivery,
    ShopKind.WOOCOMMERCE: woocommerce.read_delivery,
    ShopKind.SQUARE: square.read_delivery,
    ShopKind.STANDARD: standard.read_delivery,
}


def read_delivery(kind: ShopKind, headers: Mapping[str, str], raw: bytes) -> Delivery:
    """Return what a verified delivery says. `headers`: by name in lower case. Raises ShopBodyError."""
    delivery = _READERS[kind](headers, raw)
    if not 1 <= len(delivery.id) <= MAX_TEXT:
        raise ShopBodyError(f"the id of the delivery must have 1 to {MAX_TEXT} characters")
    return replace(delivery, topic=delivery.topic[:MAX_TEXT])
