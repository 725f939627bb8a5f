"""Deliveries of WooCommerce, as https://developer.woocommerce.com/docs/apis/rest-api/v3/webhooks/ describes them.

A delivery has the whole order, with all refunds so far. Each refund has an id and counts once, so a delivery that
arrives late or twice changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from issuer.loyalty.hooks.body import (
    Json,
    amount_of,
    currency_of,
    id_of,
    member,
    members,
    parse_body,
    text_of,
    total_of,
)
from issuer.loyalty.hooks.events import (
    Delivery,
    OrderCancelled,
    OrderEvent,
    OrderPaid,
    OrderRefunded,
    ShopCustomer,
    ShopKind,
)
from issuer.loyalty.hooks.signatures import SIGNATURE_HEADERS

TOPICS: Final = frozenset({"order.created", "order.updated"})
PAID: Final = frozenset({"processing", "completed"})
ENDED: Final = frozenset({"cancelled", "failed", "trash"})
_PING: Final = re.compile(rb"webhook_id=[0-9]{1,20}")


def is_ping(headers: Mapping[str, str], raw: bytes) -> bool:
    """Return whether this is the form that WooCommerce sends, unsigned, when a webhook is saved."""
    return SIGNATURE_HEADERS[ShopKind.WOOCOMMERCE] not in headers and _PING.fullmatch(raw) is not None


def read_delivery(headers: Mapping[str, str], raw: bytes) -> Delivery:
    """Return what a delivery says. Raises ShopBodyError."""
    topic = headers.get("x-wc-webhook-topic", "")
    id_ = headers.get("x-wc-webhook-delivery-id") or hashlib.sha256(raw).hexdigest()
    if topic not in TOPICS:
        return Delivery(id_, topic, note="the topic is unknown")
    order = parse_body(raw)
    events = _events(order)
    note = "" if events else f"there is nothing to do: the status of the order is {text_of(order, 'status')}"
    return Delivery(id_, topic, events, note)


def _events(order: Json) -> tuple[OrderEvent, ...]:
    """Return what an order says. It does not say which part of a refund is tax or shipping: the order's parts count."""
    order_id, status = id_of(order, "id"), text_of(order, "status")
    total, refunds = amount_of(order, "total"), members(order, "refunds")
    amount = max(total - amount_of(order, "total_tax") - amount_of(order, "shipping_total"), Decimal(0))
    if status == "refunded" or (status in ENDED and order.get("date_paid_gmt") is not None):
        return (OrderCancelled(order_id),)
    events: list[OrderEvent] = []
    currency = currency_of(order)
    if status in PAID:
        events.append(OrderPaid(order_id, amount, currency, _customer(order)))
    if -total_of(refunds, "total") >= total > 0:
        events.append(OrderCancelled(order_id))
    elif total > 0:
        events += [
            OrderRefunded(
                order_id, id_of(refund, "id"), -amount_of(refund, "total") * amount / total, currency=currency
            )
            for refund in refunds
        ]
    return tuple(events)


def _customer(order: Json) -> ShopCustomer:
    billing, customer_id = member(order, "billing"), order.get("customer_id")
    return ShopCustomer(
        email=text_of(billing, "email"),
        # 0 is a guest.
        ref=f"woocommerce:{id_of(order, 'customer_id')}" if customer_id not in (None, 0) else None,
    )
