"""Deliveries of Square, as https://developer.squareup.com/reference/square/payments-api/webhooks describes them.

A payment is the order: an order with several payments earns for each, and a refund names its payment. A payment does
not say how much of it is tax, so that tax earns points; a tip does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from issuer.loyalty.hooks.body import Json, ShopBodyError, currency_of, id_of, member, parse_body, text_of
from issuer.loyalty.hooks.events import MAX_TEXT, Delivery, OrderPaid, OrderRefunded, ShopCustomer, ShopEvent
from issuer.money import CURRENCIES

COMPLETED: Final = "COMPLETED"


def read_delivery(headers: Mapping[str, str], raw: bytes) -> Delivery:
    """Return what a delivery says. Raises ShopBodyError."""
    body = parse_body(raw)
    topic = (text_of(body, "type") or "")[:MAX_TEXT]
    event_id = text_of(body, "event_id") or hashlib.sha256(raw).hexdigest()
    kind, read = _READERS.get(topic, ("", None))
    if read is None:
        return Delivery(event_id, topic, note="the topic is unknown")
    subject = member(member(member(body, "data"), "object"), kind)
    status = text_of(subject, "status")
    if status != COMPLETED:
        return Delivery(event_id, topic, note=f"there is nothing to do: the status of the {kind} is {status}")
    return Delivery(event_id, topic, (read(subject),))


def _payment(payment: Json) -> ShopEvent:
    amount, currency = _money(payment)
    customer_id = text_of(payment, "customer_id")
    customer = ShopCustomer(
        email=text_of(payment, "buyer_email_address"),
        ref=None if customer_id is None else f"square:{customer_id}",
    )
    return OrderPaid(id_of(payment, "id"), amount, currency, customer)


def _refund(refund: Json) -> ShopEvent:
    amount, currency = _money(refund)
    return OrderRefunded(id_of(refund, "payment_id"), id_of(refund, "id"), amount, currency=currency)


def _money(values: Json) -> tuple[Decimal, str]:
    """Return the amount without tips and its currency. Square writes whole numbers of the smallest unit."""
    money = member(values, "amount_money")
    currency, amount = currency_of(money), money.get("amount")
    if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= 10**12:
        raise ShopBodyError("amount_money.amount must be a whole number of the currency's smallest unit")
    return Decimal(amount).scaleb(-(CURRENCIES[currency] or 0)), currency


_READERS: Final = {
    # A payment in cash is complete when it is created.
    "payment.created": ("payment", _payment),
    "payment.updated": ("payment", _payment),
    "refund.created": ("refund", _refund),
    "refund.updated": ("refund", _refund),
}
