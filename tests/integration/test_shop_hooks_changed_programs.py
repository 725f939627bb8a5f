"""Deliveries of shops whose program, or whose member, is another one than when the order was placed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from issuer.access.secrets import new_key
from issuer.loyalty.hooks.events import ShopKind
from issuer.settings import Settings
from tests.support.api import Api, problem
from tests.support.hooks import HookShop
from tests.support.shop_deliveries import EMAILS, again, sample

SHOPIFY, WOOCOMMERCE, SQUARE, STANDARD = ShopKind


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr(new_key())})


async def test_a_refund_counts_in_the_currency_in_which_its_order_has_earned(api: Api) -> None:
    shop = await HookShop.of(api, STANDARD, currency="EUR")
    await shop.member(email=EMAILS[STANDARD])
    await shop.sent(sample(STANDARD, "order.paid"))
    await shop.change_program(terms={"earn": None})
    back = sample(STANDARD, "order.refunded")
    await shop.sent(back)
    assert await shop.entries() == [("earn", 12), ("take_back", 3)]
    # The yen has no decimals.
    await shop.change_program(terms={"earn": {"points": 1, "per": "1", "currency": "JPY"}})
    refund = {"order_id": "A-1001", "source": "standard", "amount_refunded": "1.00"}
    path, redeem = f"/api/v1/loyalty/programs/{shop.program.id}/refunds", await api.key("redeem")
    other = await api.client.post(path, json={**refund, "currency": "JPY"}, headers=redeem)
    assert "currency must be EUR" in problem(other, 400)["error"]
    assert other.json()["code"] == "other_currency"
    assert (await api.client.post(path, json={**refund, "currency": "EUR"}, headers=redeem)).status_code == 201
    yen = back.changed(data={**back.body["data"], "refund_id": "R-2", "currency": "JPY"})
    await shop.sent(yen.with_headers(**{"webhook-id": "msg_yen"}))
    (refused,) = await shop.inbox(state="refused")
    assert refused["note"] == "the refund is in JPY, and the order has earned by EUR"
    assert await shop.entries() == [("earn", 12), ("take_back", 3), ("take_back", 1)]


async def test_an_order_that_has_earned_is_refunded_by_its_next_delivery_whatever_the_rate(api: Api) -> None:
    shop = await HookShop.of(api, WOOCOMMERCE)
    await shop.member(email=EMAILS[WOOCOMMERCE])
    await shop.sent(again(sample(WOOCOMMERCE, "order.updated")))
    await shop.change_program(terms={"earn": None})
    # It says once more that the order is paid, and then what was refunded of it.
    await shop.sent(again(sample(WOOCOMMERCE, "order.updated refunded in part")))
    assert await shop.entries() == [("earn", 18), ("take_back", 7), ("take_back", 5)]


async def test_what_shops_and_logins_have_sent_for_an_old_address_is_erased_with_the_member(api: Api) -> None:
    shop = await HookShop.of(api, STANDARD, currency="EUR")
    old = EMAILS[STANDARD]
    member = await shop.member(email=old, name="Ann")
    path = f"/api/v1/loyalty/programs/{shop.program.id}/members/{member}"

    async def change(values: dict[str, Any]) -> None:
        answer = await api.client.patch(path, json=values, headers=api.admin)
        assert answer.status_code == 200, answer.text

    await shop.change_program(terms={"earn": {"points": 1, "per": "1.00", "currency": "USD"}})
    await shop.sent(sample(STANDARD, "order.paid"))
    assert await shop.states() == ["refused"]
    await api.owner.execute(
        "INSERT INTO login_tokens (hash, purpose, program_id, code_hash, email, email_folded, expires_at) VALUES"
        " (sha256('t'), 'login', $1, sha256('c'), $2, $2, now() + interval '1 h')",
        shop.program.id, old,
    )  # fmt: skip
    await change({"email": old.upper()})
    assert await api.owner.fetchval("SELECT count(*) FROM login_tokens") == 1
    await change({"email": None})
    await change({"email": "new@example.com"})
    # What is on its way to the old address opens nothing any more.
    assert await api.owner.fetchval("SELECT count(*) FROM login_tokens") == 0
    # Another person gets the address; the delivery is not theirs.
    other = await shop.member(email=old)
    assert [row["member_id"] for row in await shop.inbox()] == [str(member)]
    assert old in await api.owner.fetchval("SELECT body::text FROM hook_inbox")
    assert (await api.client.delete(path, headers=api.admin)).status_code == 200
    row = await api.owner.fetchrow("SELECT body, customer_keys FROM hook_inbox")
    assert row is not None
    assert (row["body"], row["customer_keys"]) == (None, [])
    assert await api.owner.fetchval("SELECT email FROM members WHERE id = $1", other) == old
