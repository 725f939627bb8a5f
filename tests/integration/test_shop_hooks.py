"""Orders from shops, end to end: signed deliveries over HTTP, the inbox, points, and the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from issuer.access.secrets import new_key
from issuer.http.limiting.fair_slots import MAX_DELIVERIES
from issuer.http.loyalty import deliveries
from issuer.loyalty.hooks.endpoint_store import find_endpoint
from issuer.loyalty.hooks.events import ShopKind
from issuer.loyalty.hooks.inbox import store_delivery
from issuer.loyalty.hooks.reading import read_delivery
from issuer.settings import Settings
from tests.support.api import Api, problem
from tests.support.hooks import HookShop, settle_by_worker
from tests.support.servers import START_LIMIT_S
from tests.support.shop_deliveries import EMAILS, again, lower, sample

SHOPIFY, WOOCOMMERCE, SQUARE, STANDARD = ShopKind


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr(new_key())})


@pytest.mark.parametrize(
    ("kind", "paid", "refund", "earned", "taken"),
    [
        (SHOPIFY, "orders/paid", "refunds/create", 597, 196),
        (WOOCOMMERCE, "order.updated", "order.updated refunded", 18, 18),
        (SQUARE, "payment.updated", "refund.updated", 10, 4),
        (STANDARD, "order.paid", "order.refunded", 12, 3),
    ],
)
async def test_an_order_counts_once_however_often_and_in_whatever_order_it_arrives(
    api: Api, kind: ShopKind, paid: str, refund: str, earned: int, taken: int
) -> None:
    shop = await HookShop.of(api, kind, currency="EUR" if kind is STANDARD else "USD")
    await shop.member(email=EMAILS[kind])
    order, back = sample(kind, paid), sample(kind, refund)
    # The refund first: it waits for its order.
    assert await shop.sent(again(back)) == "received"
    await shop.sent(again(back))
    assert set(await shop.states()) == {"waits_for_order"}
    outcomes = await asyncio.gather(*(shop.sent(again(order)) for _ in range(50)))
    assert "received" in outcomes
    await asyncio.gather(*(shop.sent(again(back)) for _ in range(50)))
    await settle_by_worker(api)
    expected = [("earn", earned), ("take_back", taken)]
    assert await shop.entries() == expected
    assert set(await shop.states()) == {"done"}
    # A day and an hour later, when all answers that are kept have expired; then months later, with an empty inbox.
    await api.owner.execute("UPDATE hook_inbox SET received_at = received_at - interval '25 hours'")
    await api.owner.execute("UPDATE entries SET occurred_at = occurred_at - interval '25 hours'")
    assert await shop.sent(again(order)) in ("repeated", "received")
    await api.owner.execute("DELETE FROM hook_inbox")
    for delivery in (order, back, order):
        await shop.sent(again(delivery))
    assert await shop.entries() == expected


async def test_a_delivery_that_is_not_signed_is_refused_and_counted(api: Api) -> None:
    shop = await HookShop.of(api, SHOPIFY)
    order = sample(SHOPIFY, "orders/paid")
    with capture_logs() as lines:
        answer = await shop.send(order, secret="another secret")
        assert "x-shopify-hmac-sha256" in problem(answer, 401, "the signature is not valid")["detail"]
        assert answer.headers["www-authenticate"].startswith("Signature")
        problem(await shop.post(order.raw, dict(order.headers)), 401, "the signature is not valid")
    assert [line["reason"] for line in lines if line.get("category") == "security"] == ["signature_invalid"] * 2
    assert await shop.inbox() == []
    metrics = (await api.get("/metrics")).text
    assert 'issuer_hook_deliveries_total{outcome="unsigned"} 2.0' in metrics
    own = await HookShop.in_program(api, shop.program, STANDARD)
    paid = sample(STANDARD, "order.paid")
    late = await own.post(paid.raw, paid.signed(at=datetime.now(UTC) - timedelta(minutes=6)))
    assert "too old" in problem(late, 401, "the signature is not valid")["detail"]
    for path in (f"/hooks/{uuid4()}", "/hooks/x"):
        problem(await api.client.post(path, content=b"{}"), 404, "no hook found")
    deleted = await api.client.delete(own.path, headers=api.admin)
    assert deleted.json()["revoked_at"] is not None
    problem(await own.send(paid), 404, "no hook found")
    left = await api.owner.fetch("SELECT name FROM stored_secrets WHERE owner = $1", f"hook:{own.hook['id']}")
    assert left == []


async def test_what_cannot_be_read_is_shown_and_changes_nothing(api: Api) -> None:
    shop = await HookShop.of(api, SHOPIFY)
    own = await HookShop.in_program(api, shop.program, STANDARD)
    woo = await HookShop.in_program(api, shop.program, WOOCOMMERCE)
    order = sample(SHOPIFY, "orders/paid")
    assert await shop.sent(order.with_headers(**{"X-Shopify-Topic": "orders/updated"})) == "ignored"
    assert await shop.sent(order.changed(subtotal_price="a lot")) == "unreadable"
    notes = {row["state"]: row["note"] for row in await shop.inbox()}
    assert notes == {"ignored": "the topic is unknown", "refused": "subtotal_price must be an amount such as 12.50"}
    # Own software learns why.
    broken = sample(STANDARD, "order.paid").changed(data={"order_id": "1", "amount": "1"})
    assert problem(await own.send(broken), 400)["code"] == "invalid_delivery"
    paid = sample(STANDARD, "order.paid")
    large = await own.send(paid.changed(data={**paid.body["data"], "amount": "20000000000.00"}))
    assert problem(large, 400)["error"] == "the amount must be at most 10000000000.00 EUR"
    assert await own.inbox() == []
    # The form that WooCommerce sends when a webhook is saved is not signed.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await woo.post(b"webhook_id=142", form)).json()["outcome"] == "ping"
    long = order.changed(note="x" * 1_048_576)
    assert problem(await shop.send(long), 413)["code"] == "body_too_large"
    nearly = order.changed(note="x" * 900_000)
    assert await shop.sent(nearly) == "received"
    assert await shop.entries() == []


async def test_a_secret_is_rotated_while_both_are_valid_for_a_day(api: Api) -> None:
    shop = await HookShop.of(api, WOOCOMMERCE)
    first = shop.hook["secret"]
    rotated = await api.client.post(shop.path + "/rotate", json={}, headers=api.admin)
    assert rotated.headers["cache-control"] == "no-store"
    second = rotated.json()["secret"]
    assert second != first
    order = sample(WOOCOMMERCE, "order.updated")
    assert [(await shop.send(again(order), secret=one)).status_code for one in (first, second)] == [200, 200]
    await api.owner.execute("UPDATE hook_endpoints SET previous_until = now()")
    assert [(await shop.send(again(order), secret=one)).status_code for one in (first, second)] == [401, 200]
    # What is kept for the key has no secret: it would be stored in clear.
    key = {**api.admin, "Idempotency-Key": "rotation-1"}
    answers = [await api.client.post(shop.path + "/rotate", json={}, headers=key) for _ in range(2)]
    assert answers[0].json()["secret"] is not None
    assert (answers[1].json()["secret"], answers[1].headers["idempotency-replayed"]) == (None, "true")
    stored = await api.owner.fetch("SELECT sealed FROM stored_secrets")
    assert all(second.encode() not in row["sealed"] for row in stored)


async def test_values_that_contradict_are_refused(api: Api) -> None:
    shop = await HookShop.of(api, SHOPIFY)
    hooks = shop.path.rpartition("/")[0]
    for body, status, text in (
        ({}, 400, "kind is required"),
        ({"kind": "etsy"}, 400, "kind must be one of shopify, woocommerce, square, standard"),
        ({"kind": "shopify", "source": "other", "secret": "short"}, 400, "secret must have 8 to 255 printable ASCII"),
        ({"kind": "square", "secret": "x" * 20}, 400, "notification_url is needed: https:// and your address"),
        ({"kind": "square", "notification_url": "ftp://x"}, 400, "notification_url must begin with https://"),
        ({"kind": "standard", "notification_url": "https://x.example"}, 400, "for hooks of the kind square only"),
        ({"kind": "standard", "source": " x"}, 400, "source must be a name"),
        ({"kind": "shopify", "secret": "x" * 20}, 409, "the program has a hook with the source shopify"),
    ):
        answer = await api.client.post(hooks, json=body, headers=api.admin)
        assert answer.status_code == status, answer.text
        assert text in answer.json()["error"]
    square = {"kind": "square", "source": "x", "notification_url": "https://loyalty.example.com/"}
    made = (await api.client.post(hooks, json=square, headers=api.admin)).json()
    for unknown in ("x", str(uuid4())):
        problem(await api.client.get(f"{hooks}/{unknown}", headers=api.admin), 404, "no hook found")
    problem(await api.client.get(f"{hooks}/{made['id']}/inbox?state=lost", headers=api.admin), 400)
    assert made["notification_url"] == f"https://loyalty.example.com{made['path']}"
    await api.client.delete(f"{hooks}/{made['id']}", headers=api.admin)
    listed = await api.client.get(hooks, headers=api.admin)
    assert [one["id"] for one in listed.json()["items"]] == [shop.hook["id"], made["id"]]
    assert "secret" not in (await api.client.get(shop.path, headers=api.admin)).json()


async def test_orders_wait_for_people_who_join_if_the_hook_keeps_them(api: Api) -> None:
    shop = await HookShop.of(api, SQUARE, keeps_unknown=True)
    plain = await HookShop.in_program(api, shop.program, SQUARE, source="square 2")
    payment = sample(SQUARE, "payment.updated")
    assert await shop.sent(payment) == await plain.sent(payment) == "received"
    assert (await shop.states(), await plain.states()) == (["waits_for_member"], ["done"])
    bodies = await api.owner.fetch("SELECT body::text AS body FROM hook_inbox")
    assert all("buyer@example.com" not in (row["body"] or "") for row in bodies)
    member = await shop.member(email="BUYER@example.com")
    await settle_by_worker(api)
    assert await shop.entries() == [("earn", 10)]
    (row,) = await shop.inbox()
    assert (row["state"], row["member_id"]) == ("done", str(member))


async def test_an_erasure_reaches_the_inbox(api: Api) -> None:
    shop = await HookShop.of(api, SHOPIFY, keeps_unknown=True)
    order = sample(SHOPIFY, "orders/paid")
    await shop.sent(order)
    assert await shop.sent(sample(SHOPIFY, "customers/redact")) == "received"
    assert {row["topic"]: (row["state"], row["note"]) for row in await shop.inbox()} == {
        "orders/paid": ("ignored", "the customer was erased"),
        "customers/redact": ("done", "there is no such member"),
    }
    member = await shop.member(email=EMAILS[SHOPIFY])
    other = order.changed(id=1).with_headers(**{"X-Shopify-Event-Id": "another"})
    await shop.sent(other)
    assert await shop.sent(sample(SHOPIFY, "customers/data_request")) == "received"
    (asks,) = await shop.inbox(state="asks")
    assert asks["member_id"] == str(member)
    await shop.sent(sample(SHOPIFY, "customers/redact").with_headers(**{"X-Shopify-Event-Id": "second"}))
    row = await api.owner.fetchrow("SELECT email, ref, erased_at FROM members WHERE id = $1", member)
    assert row is not None
    assert (row["email"], row["ref"]) == (None, None)
    left = await api.owner.fetchval("SELECT count(*) FROM hook_inbox WHERE customer_keys <> '{}' AND topic <> $1",
                                    "customers/redact")  # fmt: skip
    assert left == 0
    assert await shop.entries() == [("earn", 597)]


async def test_what_cannot_be_processed_now_is_tried_again_and_shown(api: Api) -> None:
    shop = await HookShop.of(api, STANDARD, currency="EUR")
    await shop.member(email=EMAILS[STANDARD])
    program = f"/api/v1/loyalty/programs/{shop.program.id}"
    assert (await api.client.patch(program, json={"state": "paused"}, headers=api.admin)).status_code == 200
    await shop.sent(sample(STANDARD, "order.paid"))
    await settle_by_worker(api)
    (row,) = await shop.inbox()
    assert (row["state"], row["failures"]) == ("received", 1)
    assert "the program is paused" in row["error"]
    assert (await api.client.patch(program, json={"state": "active"}, headers=api.admin)).status_code == 200
    await api.owner.execute("UPDATE task_rows SET retry_at = now()")
    await settle_by_worker(api)
    assert await shop.entries() == [("earn", 12)]
    # Another currency is refused, until the terms say otherwise.
    paid = sample(STANDARD, "order.paid")
    other = paid.changed(data={**paid.body["data"], "order_id": "2", "currency": "USD"})
    await shop.sent(other.with_headers(**{"webhook-id": "msg_2"}))
    (refused,) = await shop.inbox(state="refused")
    assert refused["note"] == "the order is in USD, and the program earns by EUR"
    changed = paid.changed(data={**paid.body["data"], "amount": "13.00"})
    await shop.sent(changed.with_headers(**{"webhook-id": "msg_3"}))
    assert "order_differs" in (await shop.inbox(state="refused"))[0]["note"]
    assert await shop.entries() == [("earn", 12)]


async def test_prices_with_tax_take_refunds_with_tax(api: Api) -> None:
    shop = await HookShop.of(api, SHOPIFY)
    await shop.member(email=EMAILS[SHOPIFY])
    await shop.sent(sample(SHOPIFY, "refunds/create"))
    await shop.sent(sample(SHOPIFY, "orders/paid").changed(taxes_included=True))
    # 597.00 - 3 * 3.98 = 585.06; 195.66 - 3.98 = 191.68, so 393.38 of it stay.
    assert await shop.entries() == [("earn", 585), ("take_back", 192)]
    await shop.sent(sample(SHOPIFY, "orders/cancelled"))
    assert await shop.entries() == [("earn", 585), ("take_back", 192), ("take_back", 393)]


async def test_a_flood_at_one_hook_stops_no_other_and_one_at_many_no_other_client(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "WAIT_S", 0.0)
    flooded = await HookShop.of(api, STANDARD, currency="EUR")
    more = [await HookShop.in_program(api, flooded.program, STANDARD, source=f"more {n}") for n in range(6)]
    other = await HookShop.in_program(api, flooded.program, SHOPIFY)
    of_other_client = await HookShop.of(api, SHOPIFY, client_id=uuid4())
    released, paid = asyncio.Event(), sample(STANDARD, "order.paid")

    async def slow() -> AsyncIterator[bytes]:
        yield paid.raw[:10]
        await released.wait()
        yield paid.raw[10:]

    slots = api.services.slots.deliveries
    requests: list[asyncio.Task[httpx.Response]] = []

    async def flood(shop: HookShop) -> None:
        requests.extend(
            asyncio.create_task(api.client.post(shop.hook["path"], content=slow(), headers=paid.signed()))
            for _ in range(MAX_DELIVERIES)
        )
        async with asyncio.timeout(START_LIMIT_S):
            while slots.used + sum(request.done() for request in requests) < len(requests):
                await asyncio.sleep(0.01)
        assert slots.used < MAX_DELIVERIES

    await flood(flooded)
    assert await other.sent(sample(SHOPIFY, "orders/paid")) == "received"
    # A client may have any number of hooks.
    for shop in more:
        await flood(shop)
    assert await of_other_client.sent(sample(SHOPIFY, "orders/paid")) == "received"
    released.set()
    answers = await asyncio.gather(*requests)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {problem(answer, 429)["code"] for answer in refused} == {"share_used"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    of_one = answers[:MAX_DELIVERIES]
    outcomes = [answer.json()["outcome"] for answer in of_one if answer.status_code == 200]
    assert sorted(outcomes) == ["received", *["repeated"] * (len(outcomes) - 1)]


async def test_an_erasure_reaches_what_was_refused(api: Api) -> None:
    shop = await HookShop.of(api, STANDARD, currency="USD")
    member = await shop.member(email=EMAILS[STANDARD])
    await shop.sent(sample(STANDARD, "order.paid"))
    path = f"/api/v1/loyalty/programs/{shop.program.id}/members/{member}"
    exported = (await api.client.get(path + "/export", headers=api.admin)).json()
    assert [one["state"] for one in exported["shop_deliveries"]] == ["refused"]
    assert EMAILS[STANDARD] in str(await api.owner.fetchval("SELECT body::text FROM hook_inbox"))
    # The worker may erase, too: the API was killed before it has.
    redact = sample(SHOPIFY, "customers/redact").changed(customer={"email": EMAILS[STANDARD]})
    asks = read_delivery(SHOPIFY, lower(redact.headers), redact.raw)
    endpoint = await find_endpoint(api.owner, UUID(shop.hook["id"]))
    number = await store_delivery(api.owner, endpoint, asks)
    await settle_by_worker(api)
    (erased,) = [one for one in await shop.inbox() if one["id"] == number]
    assert (erased["state"], erased["note"], erased["error"]) == ("done", "the member was erased", None)
    await api.owner.execute("DELETE FROM hook_inbox WHERE id = $1", number)
    row = await api.owner.fetchrow("SELECT body, customer_keys, state FROM hook_inbox")
    assert row is not None
    assert tuple(row) == (None, [], "refused")


async def test_an_order_of_a_stranger_with_refunds_waits_for_nothing(api: Api) -> None:
    shop = await HookShop.of(api, WOOCOMMERCE)
    await shop.sent(sample(WOOCOMMERCE, "order.updated refunded in part"))
    (row,) = await shop.inbox()
    assert (row["state"], row["note"]) == ("done", "the customer is no member")
    assert await api.owner.fetchval("SELECT body FROM hook_inbox") is None
