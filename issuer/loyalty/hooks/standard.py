"""Deliveries of any other software, signed as https://www.standardwebhooks.com describes: Zapier, n8n, own scripts.

    {"type": "order.paid", "data": {"order_id": "A-1001", "amount": "12.50", "currency": "EUR", "email": "…"}}
    {"type": "order.refunded", "data": {"order_id": "A-1001", "refund_id": "R-1", "amount": "2.50"}}

The customer is named by `email`, `ref` or `card`. A refund without an amount is one of the whole order; one with a
currency is refused if that is not the order's.
"""

from __future__ import annotations

from collections.abc import Mapping

from issuer.loyalty.hooks.body import ShopBodyError, amount_of, currency_of, id_of, member, parse_body, text_of
from issuer.loyalty.hooks.events import MAX_TEXT, Delivery, OrderCancelled, OrderPaid, OrderRefunded, ShopCustomer


def read_delivery(headers: Mapping[str, str], raw: bytes) -> Delivery:
    """Return what a delivery says. Raises ShopBodyError."""
    body, id_ = parse_body(raw), headers.get("webhook-id", "")
    topic, data = (text_of(body, "type") or "")[:MAX_TEXT], member(body, "data")
    if topic == "order.paid":
        customer = ShopCustomer(**{name: text_of(data, name) for name in ("email", "ref", "card")})
        if not customer:
            raise ShopBodyError("data needs one of email, ref and card")
        amount = amount_of(data, "amount")
        if amount < 0:
            raise ShopBodyError("amount must not be negative")
        return Delivery(id_, topic, (OrderPaid(id_of(data, "order_id"), amount, currency_of(data), customer),))
    if topic == "order.refunded":
        order_id = id_of(data, "order_id")
        if data.get("amount") is None:
            return Delivery(id_, topic, (OrderCancelled(order_id),))
        amount = amount_of(data, "amount")
        if amount <= 0:
            raise ShopBodyError("amount must be above 0")
        refund_id = id_ if data.get("refund_id") is None else id_of(data, "refund_id")
        currency = None if data.get("currency") is None else currency_of(data)
        return Delivery(id_, topic, (OrderRefunded(order_id, refund_id, amount, currency=currency),))
    return Delivery(id_, topic, note="the type is unknown: order.paid and order.refunded count")
