"""Deliveries of Shopify, as https://shopify.dev/docs/api/webhooks describes them.

The headers are not part of what is signed. So the body alone decides what a delivery says, and a topic counts only if
the body has the fields of that topic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from issuer.loyalty.hooks.body import (
    Json,
    amount_of,
    currency_of,
    flag_of,
    id_of,
    member,
    members,
    parse_body,
    text_of,
    total_of,
)
from issuer.loyalty.hooks.events import (
    CustomerErased,
    DataRequested,
    Delivery,
    OrderCancelled,
    OrderPaid,
    OrderRefunded,
    ShopCustomer,
    ShopEvent,
)

PAID: Final = frozenset({"paid", "partially_refunded", "refunded"})
WAS_PAID: Final = PAID | {"partially_paid"}


def read_delivery(headers: Mapping[str, str], raw: bytes) -> Delivery:
    """Return what a delivery says. Raises ShopBodyError.

    One act of a merchant is one event of Shopify with a delivery for each topic: the two together are the id.
    """
    topic = headers.get("x-shopify-topic", "")
    message_id = headers.get("x-shopify-webhook-id")
    event_id = headers.get("x-shopify-event-id") or message_id or hashlib.sha256(raw).hexdigest()
    read = _READERS.get(topic)
    if read is None:
        return Delivery(f"{event_id} {topic}", topic, note="the topic is unknown", message_id=message_id)
    outcome = read(parse_body(raw))
    note = outcome if isinstance(outcome, str) else ""
    events = () if isinstance(outcome, str) else (outcome,)
    return Delivery(f"{event_id} {topic}", topic, events, note, message_id)


def _order_paid(order: Json) -> ShopEvent | str:
    status = text_of(order, "financial_status")
    if status not in PAID:
        return f"the order is not paid: its financial_status is {status}"
    # What tax_lines of the lines hold is the tax of the goods; total_tax would include that of shipping.
    includes_tax = flag_of(order, "taxes_included")
    tax = sum((total_of(members(line, "tax_lines"), "price") for line in members(order, "line_items")), Decimal(0))
    amount = amount_of(order, "subtotal_price") - (tax if includes_tax else 0)
    return OrderPaid(
        id_of(order, "id"), max(amount, Decimal(0)), currency_of(order), _customer(order), includes_tax=includes_tax
    )


def _refund_created(refund: Json) -> ShopEvent | str:
    lines = members(refund, "refund_line_items")
    # An adjustment is negative where more was refunded than the lines come to. Refunded shipping is one too.
    others = [one for one in members(refund, "order_adjustments") if one.get("kind") != "shipping_refund"]
    amount = total_of(lines, "subtotal") - total_of(others, "amount")
    if amount <= 0:
        return "nothing that earned points was refunded"
    return OrderRefunded(id_of(refund, "order_id"), id_of(refund, "id"), amount, total_of(lines, "total_tax"))


def _order_cancelled(order: Json) -> ShopEvent | str:
    if order.get("cancelled_at") is None:
        return "the order is not cancelled: its cancelled_at is null"
    status = text_of(order, "financial_status")
    if status not in WAS_PAID:
        return f"the order was not paid: its financial_status is {status}"
    return OrderCancelled(id_of(order, "id"))


def _redact(request: Json) -> ShopEvent | str:
    return CustomerErased(_customer(request)) if "orders_to_redact" in request else "orders_to_redact is missing"


def _data_request(request: Json) -> ShopEvent | str:
    return DataRequested(_customer(request)) if "data_request" in request else "data_request is missing"


def _customer(values: Json) -> ShopCustomer:
    customer = member(values, "customer")
    return ShopCustomer(
        email=text_of(values, "email") or text_of(customer, "email"),
        ref=f"shopify:{id_of(customer, 'id')}" if customer.get("id") is not None else None,
    )


_READERS: Final = {
    "orders/paid": _order_paid,
    "refunds/create": _refund_created,
    "orders/cancelled": _order_cancelled,
    "customers/redact": _redact,
    "customers/data_request": _data_request,
}
