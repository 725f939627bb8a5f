"""What deliveries of shops say, and whether they are signed, on samples from the shops' documentation."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from issuer.loyalty.hooks.body import ShopBodyError
from issuer.loyalty.hooks.events import (
    CustomerErased,
    DataRequested,
    Delivery,
    OrderCancelled,
    OrderPaid,
    OrderRefunded,
    ShopCustomer,
    ShopKind,
)
from issuer.loyalty.hooks.reading import read_delivery
from issuer.loyalty.hooks.signatures import ShopSecretError, SignatureError, check_secret, new_secret, verify
from issuer.loyalty.hooks.woocommerce import is_ping
from tests.support.shop_deliveries import NOTIFICATION_URL, SECRETS, ShopDelivery, lower, sample, samples

SHOPIFY, WOOCOMMERCE, SQUARE, STANDARD = ShopKind
BUYER = ShopCustomer(email="bob.norman@mail.example.com", ref="shopify:207119551")


def read(delivery: ShopDelivery) -> Delivery:
    return read_delivery(delivery.kind, lower(delivery.headers), delivery.raw)


def only(delivery: ShopDelivery) -> Any:
    (event,) = read(delivery).events
    return event


def note(delivery: ShopDelivery) -> str:
    found = read(delivery)
    assert found.events == ()
    return found.note


def test_every_sample_names_its_page_and_day() -> None:
    for kind in ShopKind:
        for name, found in samples(kind).items():
            assert found["page"].startswith("https://"), name
            assert datetime.fromisoformat(found["read_on"]), name
            assert read(sample(kind, name)).events, name


def test_shopify_orders_count_before_tax_and_shipping() -> None:
    paid = sample(SHOPIFY, "orders/paid")
    assert only(paid) == OrderPaid("450789469", Decimal("597.00"), "USD", BUYER)
    # Three lines with 3.98 of tax each, which the prices include. total_tax also has the tax of shipping.
    included = only(paid.changed(taxes_included=True, total_tax="13.94"))
    assert (included.amount, included.includes_tax) == (Decimal("585.06"), True)
    # The button "Send test notification" sends an order that is not paid.
    assert note(paid.changed(financial_status="voided")) == "the order is not paid: its financial_status is voided"
    cancelled = sample(SHOPIFY, "orders/cancelled")
    assert only(cancelled) == OrderCancelled("450789469")
    assert "was not paid" in note(cancelled.changed(financial_status="pending"))
    # The topic is no part of what is signed: a paid order that is sent as a cancelled one cancels nothing.
    assert "not cancelled" in note(paid.with_headers(**{"X-Shopify-Topic": "orders/cancelled"}))


def test_shopify_refunds_count_goods_only() -> None:
    refund = sample(SHOPIFY, "refunds/create")
    assert only(refund) == OrderRefunded("450789469", "509562969", Decimal("195.66"), Decimal("3.98"))
    # Refunded without lines, as a gesture; and less than the line came to.
    gesture = {"kind": "refund_discrepancy", "amount": "-10.00"}
    assert only(refund.changed(refund_line_items=[], order_adjustments=[gesture])).amount == Decimal("10.00")
    less = {"kind": "refund_discrepancy", "amount": "95.66"}
    assert only(refund.changed(order_adjustments=[less])).amount == Decimal("100.00")
    assert "nothing that earned points" in note(refund.changed(refund_line_items=[]))


def test_shopify_asks_for_erasure_and_data() -> None:
    assert only(sample(SHOPIFY, "customers/redact")) == CustomerErased(BUYER)
    assert only(sample(SHOPIFY, "customers/data_request")) == DataRequested(BUYER)
    assert "bob" not in repr(CustomerErased(BUYER))
    redact = sample(SHOPIFY, "customers/data_request").with_headers(**{"X-Shopify-Topic": "customers/redact"})
    assert note(redact) == "orders_to_redact is missing"


def test_shopify_deliveries_of_one_event_and_topic_have_one_id() -> None:
    paid = sample(SHOPIFY, "orders/paid")
    again = paid.with_headers(**{"X-Shopify-Webhook-Id": "another-delivery"})
    assert (read(again).id, read(again).message_id) == (read(paid).id, "another-delivery")
    other = paid.with_headers(**{"X-Shopify-Topic": "orders/updated"})
    assert read(other).id != read(paid).id
    assert note(other) == "the topic is unknown"


def test_woocommerce_orders_carry_all_refunds_so_far() -> None:
    customer = ShopCustomer(email="john.doe@example.com", ref="woocommerce:26")
    paid = OrderPaid("727", Decimal("18.00"), "USD", customer)
    order = sample(WOOCOMMERCE, "order.updated")
    assert only(order) == paid
    assert only(order.changed(customer_id=0)).customer.ref is None
    # 10 and 9 of 29.35 are refunded: of the 18.00 that count, the same parts.
    in_part = sample(WOOCOMMERCE, "order.updated refunded in part")
    first, *refunds = read(in_part).events
    assert first == paid
    assert [(refund.refund_id, round(refund.amount, 4)) for refund in refunds if isinstance(refund, OrderRefunded)] == [
        ("726", Decimal("6.1329")), ("724", Decimal("5.5196")),
    ]  # fmt: skip
    assert read(in_part.changed(refunds=[{"id": 1, "total": "-29.35"}])).events == (paid, OrderCancelled("727"))
    assert only(sample(WOOCOMMERCE, "order.updated refunded")) == OrderCancelled("727")
    assert only(order.changed(status="cancelled")) == OrderCancelled("727")
    assert "status of the order is cancelled" in note(order.changed(status="cancelled", date_paid_gmt=None))
    assert "status of the order is pending" in note(order.changed(status="pending"))
    assert note(order.with_headers(**{"X-WC-Webhook-Topic": "product.updated"})) == "the topic is unknown"


def test_woocommerce_ping() -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert is_ping(form, b"webhook_id=142")
    assert not is_ping(form, b"webhook_id=142&x=1")
    assert not is_ping({**form, "x-wc-webhook-signature": "x"}, b"webhook_id=142")


def test_square_payments_count_when_completed_and_without_tips() -> None:
    payment = sample(SQUARE, "payment.updated")
    customer = ShopCustomer(email="buyer@example.com", ref="square:RDX9Z4XTIZR7MRZJUXNY9HUK6I")
    id_ = "KkAkhdMsgzn59SM8A89WgKwekxLZY"
    assert only(payment) == OrderPaid(id_, Decimal("10.00"), "USD", customer)
    refund = sample(SQUARE, "refund.updated")
    assert only(refund) == OrderRefunded(id_, refund.body["data"]["id"], Decimal("4.00"), currency="USD")

    def other(**values: Any) -> ShopDelivery:
        data = payment.body["data"]
        return payment.changed(data={**data, "object": {"payment": {**data["object"]["payment"], **values}}})

    # A yen has no decimals, a dinar of Kuwait has three.
    assert only(other(amount_money={"amount": 1000, "currency": "JPY"})).amount == 1000
    assert only(other(amount_money={"amount": 1000, "currency": "KWD"})).amount == 1
    assert "status of the payment is APPROVED" in note(other(status="APPROVED"))
    assert note(payment.changed(type="invoice.paid")) == "the topic is unknown"


def test_other_software_names_the_customer_in_one_of_three_ways() -> None:
    paid, refund = sample(STANDARD, "order.paid"), sample(STANDARD, "order.refunded")
    assert only(paid) == OrderPaid("A-1001", Decimal("12.50"), "EUR", ShopCustomer(email="buyer@example.com"))
    assert only(refund) == OrderRefunded("A-1001", "R-1", Decimal("2.50"))
    assert only(refund.changed(data={"order_id": "1", "amount": 1, "currency": "JPY"})).currency == "JPY"
    assert only(refund.changed(data={"order_id": 7, "amount": 0.1})) == OrderRefunded(
        "7", refund.headers["webhook-id"], Decimal("0.1")
    )
    assert only(refund.changed(data={"order_id": "A-1001"})) == OrderCancelled("A-1001")
    for name in ("ref", "card"):
        data = {"order_id": "1", "amount": "1", "currency": "EUR", name: "x"}
        assert getattr(only(paid.changed(data=data)).customer, name) == "x"
    assert note(paid.changed(type="order.shipped")) == "the type is unknown: order.paid and order.refunded count"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amount": "12,50"}, "amount must be an amount such as 12.50"),
        ({"amount": "NaN"}, "amount must be an amount of at most 1000000000000"),
        ({"amount": 1e13}, "amount must be an amount of at most 1000000000000"),
        ({"amount": "10000000000.01"}, "the amount must be at most 10000000000.00 EUR"),
        ({"amount": True}, "amount must be an amount such as 12.50"),
        ({"amount": "-1"}, "amount must not be negative"),
        ({"currency": "Euro"}, "currency must be a currency of ISO 4217, such as EUR"),
        ({"order_id": None}, "order_id must be a number or a text of at most 255 characters"),
        ({"order_id": "a\0b"}, "order_id must be a number or a text of at most 255 characters"),
        ({"email": None}, "data needs one of email, ref and card"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(change: dict[str, Any], message: str) -> None:
    paid = sample(STANDARD, "order.paid")
    with pytest.raises(ShopBodyError) as found:
        read(paid.changed(data={**paid.body["data"], **change}))
    assert str(found.value) == message


def test_amounts_are_bounded_in_minor_units_also_where_they_are_computed() -> None:
    paid, refund = sample(STANDARD, "order.paid"), sample(STANDARD, "order.refunded")
    yen = {**paid.body["data"], "amount": "1000000000000", "currency": "JPY"}
    assert only(paid.changed(data=yen)).amount == 10**12
    order, in_part = sample(SHOPIFY, "orders/paid"), sample(WOOCOMMERCE, "order.updated refunded in part")
    tax = [{"tax_lines": [{"price": "-1000000000000"}] * 2}]
    large = [{"id": 1, "total": "-1E12"}, {"id": 2, "total": "1E12"}]
    for delivery, message in (
        (order.changed(subtotal_price="20000000000.00"), "at most 10000000000.00 USD"),
        (order.changed(taxes_included=True, line_items=tax), "at most 10000000000.00 USD"),
        (refund.changed(data={**refund.body["data"], "amount": 1e10, "currency": "KWD"}), "at most 1000000000.000 KWD"),
        (
            in_part.changed(total="0.01", total_tax="-1000000", shipping_total=0, refunds=large),
            "at most 10000000000.00",
        ),
        (in_part.changed(total="1E-999999", total_tax=-1, shipping_total=0, refunds=large), "cannot be computed"),
    ):
        with pytest.raises(ShopBodyError, match=message):
            read(delivery)


def test_what_is_no_json_object_is_refused() -> None:
    for kind in ShopKind:
        headers = lower(sample(kind, next(iter(samples(kind)))).headers)
        for raw in (b"", b"[]", b"{", b'{"a": NaN}', b'{"a":' * 100_000, b'{"a": 1e99999999999999999999}', b"\xff"):
            with pytest.raises(ShopBodyError, match="the body is not"):
                read_delivery(kind, headers, raw)


def test_signatures_of_other_implementations_are_accepted_and_no_others() -> None:
    for kind in ShopKind:
        secret, one = SECRETS[kind], sample(kind, next(iter(samples(kind))))
        for secrets in ([secret], ["whsec_" + "A" * 32, secret], [secret, "whsec_" + "A" * 32]):
            verify(kind, secrets, lower(one.signed()), one.raw, NOTIFICATION_URL)
        changed, unsigned = one.changed(more=1), lower(one.headers)
        for headers, raw in (
            (lower(one.signed()), changed.raw),
            (lower(one.signed("whsec_" + "A" * 32)), one.raw),
            (unsigned, one.raw),
        ):
            with pytest.raises(SignatureError):
                verify(kind, [secret], headers, raw, NOTIFICATION_URL)
        with pytest.raises(SignatureError):
            verify(kind, [], lower(one.signed()), one.raw, NOTIFICATION_URL)


def test_published_signatures() -> None:
    # https://developer.squareup.com/docs/webhooks/step3validate: the test request of its examples.
    square = {"x-square-hmacsha256-signature": "2kRE5qRU2tR+tBGlDwMEw2avJ7QM4ikPYD/PJ3bd9Og="}
    verify(SQUARE, ["asdf1234"], square, b'{"hello":"world"}', "https://example.com/webhook")
    with pytest.raises(SignatureError):
        verify(SQUARE, ["asdf1234"], square, b'{"hello":"world"}', "https://example.com/webhook/")
    # Shopify and WooCommerce send the HMAC of the body in base64. RFC 4231, section 4.3.
    code = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    for kind, header in ((SHOPIFY, "x-shopify-hmac-sha256"), (WOOCOMMERCE, "x-wc-webhook-signature")):
        verify(kind, ["Jefe"], {header: base64.b64encode(code).decode()}, b"what do ya want for nothing?")


@pytest.mark.parametrize("signature", ["v1", "v1,é", "v1,AA", "v2,AAAA", "v1,AAAA v1", "\x00", "é" * 44])
def test_malformed_signatures_are_refused(signature: str) -> None:
    for kind in ShopKind:
        one = sample(kind, next(iter(samples(kind))))
        headers = {name: signature if "signature" in name or "hmac" in name else value
                   for name, value in lower(one.signed()).items()}  # fmt: skip
        with pytest.raises(SignatureError):
            verify(kind, [SECRETS[kind]], headers, one.raw, NOTIFICATION_URL)


def test_an_old_timestamp_is_refused_and_a_second_signature_counts() -> None:
    one, now = sample(STANDARD, "order.paid"), datetime.now(UTC)
    for at, fault in ((now - timedelta(minutes=6), "too old"), (now + timedelta(minutes=6), "too new")):
        with pytest.raises(SignatureError, match=fault):
            verify(STANDARD, [SECRETS[STANDARD]], lower(one.signed(at=at)), one.raw)
    headers = lower(one.signed())
    headers["webhook-signature"] = "v1,AAAA " + headers["webhook-signature"]
    verify(STANDARD, [SECRETS[STANDARD]], headers, one.raw)
    with pytest.raises(SignatureError, match="malformed"):
        verify(STANDARD, [SECRETS[STANDARD]], headers, b"\xff")


def test_secrets() -> None:
    for kind in ShopKind:
        first = new_secret(kind)
        check_secret(kind, first)
        assert first != new_secret(kind)
        check_secret(kind, SECRETS[kind])
    for kind, bad in (
        (SQUARE, "short"),
        (SQUARE, " padded-secret"),
        (SQUARE, "s\u00e9cret-secret"),
        (SQUARE, "x" * 256),
        (STANDARD, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (STANDARD, "whsec_AAAA"),
    ):
        with pytest.raises(ShopSecretError):
            check_secret(kind, bad)
