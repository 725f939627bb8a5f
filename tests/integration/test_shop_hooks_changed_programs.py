"""Deliveries of shops whose program, or whose member, is another one than when the order was placed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from issuer.access.secrets import new_key
from issuer.loyalty.hooks.endpoint_store import find_endpoint
from issuer.loyalty.hooks.events import ShopKind
from issuer.loyalty.hooks.inbox import remove_expired_deliveries, store_delivery
from issuer.loyalty.hooks.reading import read_delivery
from issuer.settings import Settings
from sync_worker.maintenance import hook_inbox
from tests.support.api import Api, problem
from tests.support.hooks import HookShop, settle_by_worker
from tests.support.shop_deliveries import EMAILS, again, lower, sample

pytestmark = pytest.mark.long

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


async def test_deliveries_of_a_paused_program_hold_up_no_others_and_expire(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_inbox, "MAX_ROWS", 1)
    shop, other = await HookShop.of(api, STANDARD, currency="EUR"), await HookShop.of(api, SHOPIFY)
    await shop.member(email=EMAILS[STANDARD])
    await shop.change_program(state="paused")
    await shop.sent(sample(STANDARD, "order.paid"))
    await settle_by_worker(api)
    # The API was killed before it processed this one.
    order = sample(SHOPIFY, "orders/paid")
    delivery = read_delivery(SHOPIFY, lower(order.headers), order.raw)
    await store_delivery(api.owner, await find_endpoint(api.owner, UUID(other.hook["id"])), delivery)
    await settle_by_worker(api)
    assert (await shop.states(), await other.states()) == (["received"], ["done"])
    (paused,) = await shop.inbox()
    assert paused["failures"] == 1
    await api.owner.execute("UPDATE hook_inbox SET received_at = received_at - interval '91 days'")
    assert await remove_expired_deliveries(api.owner, 90, 1000) == 2


async def test_a_program_that_has_ended_takes_no_orders_and_keeps_no_customers(api: Api) -> None:
    shop = await HookShop.of(api, STANDARD, currency="EUR")
    await shop.member(email=EMAILS[STANDARD])
    await shop.change_program(state="ended")
    await shop.sent(sample(STANDARD, "order.paid"))
    (row,) = await shop.inbox()
    assert (row["state"], row["note"]) == ("refused", "the program has ended")
    assert await api.owner.fetchval("SELECT body FROM hook_inbox") is None


async def test_an_order_that_has_waited_for_a_member_is_that_of_whom_they_were_merged_into(api: Api) -> None:
    shop = await HookShop.of(api, SQUARE, keeps_unknown=True)
    await shop.sent(sample(SQUARE, "payment.updated"))
    await shop.change_program(state="paused")
    one, two = await shop.member(email=EMAILS[SQUARE]), await shop.member(email="other@example.com")
    members = f"/api/v1/loyalty/programs/{shop.program.id}/members"
    merged = await api.client.post(f"{members}/{one}/merge", json={"into": str(two)}, headers=api.admin)
    assert merged.status_code in (200, 201), merged.text
    await shop.change_program(state="active")
    await settle_by_worker(api)
    assert await shop.entries() == [("earn", 10)]
    (row,) = await shop.inbox()
    assert (row["state"], row["member_id"]) == ("done", str(two))
    # The member is erased in the moment in which the order is processed.
    assert (await api.client.delete(f"{members}/{two}", headers=api.admin)).status_code == 200
    await api.owner.execute("DELETE FROM hook_inbox")
    payment = sample(SQUARE, "payment.updated").body
    paid = {**payment["data"]["object"]["payment"], "id": "another"}
    await shop.sent(sample(SQUARE, "payment.updated").changed(data={"object": {"payment": paid}}))
    await api.owner.execute("UPDATE hook_inbox SET state = 'received', member_id = $1", two)
    await settle_by_worker(api)
    (row,) = await shop.inbox()
    assert (row["state"], row["note"]) == ("ignored", "the customer was erased")
    assert await shop.entries() == [("earn", 10)]
