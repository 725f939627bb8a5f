"""The coupon routes: the response to each request, by form and by JSON, and its effects."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
import pytest

from issuer.http.services import MAX_LOOKUPS, Services
from issuer.settings import Settings
from tests.support.api import Api, problem, running_app
from tests.support.coupons import CONSUME, COUPON, Till, working

pytestmark = pytest.mark.shared_app


async def rows(services: Services, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await services.stores.postgres.fetch(f"SELECT * FROM {table}")]


async def test_a_form_creates_a_coupon_with_a_drawn_code_of_the_given_length(api: Api, till: Till) -> None:
    form = {
        "code_length": "9", "expiry_date": "15-Jan-2030", "availability_count": "20", "product_id": "shoe-42",
        "promo_type": "spring", "discount_fixed": "5.00", "discount_variable": "12.5",
    }  # fmt: skip
    response = await api.client.post(COUPON, data=form, headers=till.admin)
    assert response.status_code == 201, response.text
    coupon = response.json()
    assert len(coupon["code"]) == coupon["code_length"] == 9
    assert coupon["expiry_date"] == "2030-01-16T00:00:00.000Z"
    assert (coupon["availability_count"], coupon["remaining"], coupon["valid"]) == (20, 20, True)
    assert (coupon["product_id"], coupon["promo_type"]) == ("shoe-42", "spring")
    assert (coupon["discount_fixed"], coupon["currency"], coupon["discount_variable"]) == ("5.00", "EUR", "12.5")
    assert coupon["client_id"] == str(till.client_id)
    shown = await till.show(coupon["code"])
    assert shown == coupon


@pytest.mark.parametrize("encoding", ["form", "multipart", "json", "query"])
async def test_query_form_multipart_and_json_are_equivalent(api: Api, till: Till, encoding: str) -> None:
    await till.make("SAVE20", product_id="shoe", discount_fixed="5.00", currency="USD")
    fields = {"product_id": "shoe", "customer_id": str(uuid4()), "order_id": "order 1/ä"}
    encodings: dict[str, dict[str, Any]] = {
        "form": {"data": fields}, "json": {"json": fields}, "query": {},
        "multipart": {"files": {name: (None, value) for name, value in fields.items()}},
    }  # fmt: skip
    params = {"code": "SAVE20"} | (fields if encoding == "query" else {})
    response = await api.client.post(CONSUME, params=params, headers=till.till, **encodings[encoding])
    assert response.status_code == 200, response.text
    used = response.json()
    assert len(used.pop("consumption_id")) == 32
    assert used == {
        "consumed": True, "code": "SAVE20", "product_id": "shoe", "promo_type": None, "discount_fixed": "5.00",
        "currency": "USD", "discount_variable": None,
    }  # fmt: skip


async def test_the_api_key_may_be_sent_without_a_scheme(api: Api, till: Till) -> None:
    await till.make("ALONE")
    secret = till.till["Authorization"].removeprefix("Bearer ")
    for headers in ({"Authorization": secret}, {"Authorization": f"bearer {secret}"}):
        assert (await api.client.post(CONSUME, params={"code": "alone"}, headers=headers)).status_code == 200
        assert (await api.client.get(COUPON, params={"code": "alone"}, headers=headers)).status_code == 200
    problem(await api.client.get(COUPON, params={"code": "alone"}, headers={"Authorization": "isk_wrong"}), 401)


async def test_uses_are_counted_until_the_coupon_is_used_up(till: Till) -> None:
    await till.make("THREE", uses=3)
    for left in (3, 2, 1):
        look = await till.look("THREE")
        assert (look["valid"], look["reason"], look["remaining"]) == (True, None, left)
        assert (await till.use("THREE")).status_code == 200
    assert problem(await till.use("THREE"), 409, "coupon used up")["code"] == "coupon_used_up"
    assert await till.look("THREE") == {"valid": False, "reason": "coupon used up", "reason_code": "coupon_used_up"}
    shown = await till.show("THREE")
    assert (shown["remaining"], shown["valid"], shown["availability_count"]) == (0, False, 3)


async def test_a_validation_changes_nothing(api: Api, till: Till) -> None:
    await till.make("LOOK", uses=1, rules={"maxpercustomer": 1})
    customer = str(uuid4())
    for _ in range(5):
        assert (await till.look("LOOK", customer_id=customer))["valid"]
    assert (await till.use("LOOK", customer_id=customer)).status_code == 200
    assert (await till.look("LOOK", customer_id=customer))["reason_code"] == "limit_reached"
    assert await rows(api.services, "reversals") == []


async def test_each_refusal_has_its_status_and_error(till: Till) -> None:
    problem(await till.use("ANONYMOUS"), 404, "no coupon found")
    assert (await till.look("ANONYMOUS"))["reason_code"] == "coupon_not_found"
    await till.make("OLD", expiry_date=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    problem(await till.use("OLD"), 410, "coupon expired")
    await till.make("SHOES", product_id="shoe", rules={"maxpercustomer": 1, "timelimit": 1})
    problem(await till.use("SHOES", product_id="hat"), 409, "wrong product")
    assert (await till.look("SHOES", product_id="hat"))["reason_code"] == "wrong_product"
    customer = str(uuid4())
    assert (await till.use("SHOES", product_id="shoe", customer_id=customer)).status_code == 200
    refused = await till.use("SHOES", customer_id=customer)
    assert problem(refused, 403, "rule conditions not met")["retry_at"]
    assert int(refused.headers["Retry-After"]) > 80_000
    assert (await till.use("SHOES")).status_code == 200, "without product_id and customer_id neither is checked"
    await till.change("SHOES", paused=True)
    problem(await till.use("SHOES"), 409, "coupon paused")


async def test_a_replay_returns_the_first_answer_even_when_the_coupon_is_used_up(till: Till) -> None:
    await till.make("ONCE", uses=1, discount_fixed="9.99")
    customer = str(uuid4())
    first = await till.use("ONCE", key="order-1", customer_id=customer)
    await till.change("ONCE", discount_fixed="1.00")
    again = await till.use("ONCE", key="order-1", customer_id=customer)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    problem(await till.use("ONCE", key="order-2", customer_id=customer), 409)


async def test_a_change_counts_from_the_next_request_on(till: Till) -> None:
    await till.make("MOVE", uses=2, discount_variable="10")
    assert (await till.use("MOVE")).json()["discount_variable"] == "10"
    changed = await till.change("MOVE", discount_variable="20", availability_count=5, promo_type="late")
    assert changed.status_code == 200
    assert changed.json()["remaining"] == 4
    used = (await till.use("MOVE")).json()
    assert (used["discount_variable"], used["promo_type"]) == ("20", "late")
    assert (await till.change("MOVE", availability_count=2)).json()["remaining"] == 0
    problem(await till.use("MOVE"), 409, "coupon used up")
    assert (await till.change("MOVE", expiry_date="2001-01-01")).json()["valid"] is False
    problem(await till.use("MOVE"), 410)
    opened = await till.change("MOVE", expiry_date="", availability_count=3)
    assert (opened.json()["expiry_date"], opened.json()["valid"]) == (None, True)
    assert (await till.use("MOVE")).status_code == 200


async def test_fewer_uses_than_were_taken_stop_a_coupon(api: Api, till: Till) -> None:
    """With 0, as clients of the predecessor stop one, or with any other number."""
    await till.make("STOP", uses=9)
    customer = str(uuid4())
    uses = [(await till.use("STOP", key="order-1", customer_id=customer)).json()]
    uses += [(await till.use("STOP")).json() for _ in range(2)]
    for count in (0, 2):
        stopped = (await till.change("STOP", availability_count=count)).json()
        assert stopped == await till.show("STOP")
        figures = [stopped[name] for name in ("availability_count", "used", "remaining", "valid")]
        assert figures == [count, 3, 0, False]
        problem(await till.use("STOP"), 409, "coupon used up")
        assert (await till.look("STOP"))["reason_code"] == "coupon_used_up"
    # What was answered before is answered again.
    assert (await till.use("STOP", key="order-1", customer_id=customer)).json() == uses[0]
    with working(api.services.settings):
        # A reversal returns a use only below the number that may be used.
        for use, left in zip(uses, (0, 1, 2), strict=True):
            assert (await till.reverse(use["consumption_id"])).status_code == 200
            assert [(await till.show("STOP"))[name] for name in ("used", "remaining")] == [2 - left, left]
    assert (await till.use("STOP")).status_code == 200
    assert (await till.change("STOP", availability_count=0)).json()["used"] == 1
    again = (await till.change("STOP", availability_count=3)).json()
    assert [again[name] for name in ("used", "remaining", "valid")] == [1, 2, True]
    assert [(await till.use("STOP")).status_code for _ in range(3)] == [200, 200, 409]
    shown = await till.show("STOP")
    assert [shown[name] for name in ("used", "reversed", "remaining")] == [3, 3, 0]


async def test_a_deleted_coupon_stays_deleted_and_its_history_stays(api: Api, till: Till) -> None:
    await till.make("GONE")
    used = (await till.use("GONE")).json()
    for _ in range(2):
        response = await api.client.delete(f"{COUPON}GONE/", headers=till.admin)
        assert response.status_code == 200
        assert (response.json()["deleted"], response.json()["valid"]) == (True, False)
    problem(await till.use("GONE"), 410, "coupon expired")
    assert (await till.show("gone"))["deleted"] is True
    problem(await till.change("GONE", availability_count=9), 409)
    response = await api.client.post(COUPON, json={"code": "G-one", "availability_count": 1}, headers=till.admin)
    assert problem(response, 409)["code"] == "coupon_exists"
    with working(api.services.settings):
        assert (await till.reverse(used["consumption_id"])).status_code == 200


async def test_a_code_is_found_regardless_of_case_spaces_and_dashes(till: Till) -> None:
    await till.make("Straße 5-B")
    for typed in ("straße5b", "STRASSE 5 b", "stra-sse–5B", " ＳTRASSE5B ", "\ufeffStraße\u200b5B\n"):
        assert (await till.use(typed)).status_code in (200, 409), typed
    assert (await till.show("strasse5b"))["remaining"] == 0


async def test_coupons_may_differ_in_case_only_if_each_is_case_sensitive(api: Api, till: Till) -> None:
    """As those of the predecessor, which draws codes from letters of both cases."""
    for code in ("Save", "SAVE"):
        assert (await till.make(code, uses=2, case_sensitive=True))["case_sensitive"] is True
    await till.make("Other")
    for code, case_sensitive in (("save", False), ("S-ave", True), ("OTHER", True), ("other", False)):
        body = {"code": code, "availability_count": 1, "case_sensitive": case_sensitive}
        assert problem(await api.client.post(COUPON, json=body, headers=till.admin), 409)["code"] == "coupon_exists"

    assert (await till.use("Save")).json()["code"] == "Save"
    # On the other path, with spaces and dashes, and without naming the client.
    form = {"files": {"code": (None, "S av-e")}}
    assert (await api.client.post(CONSUME, headers=till.till, **form)).json()["code"] == "Save"  # type: ignore[arg-type]
    found = await api.client.post(CONSUME, params={"code": "SAVE"}, headers=api.redeemer)
    assert found.json()["code"] == "SAVE"
    for code, left in (("Save", 0), ("SAVE", 1)):
        assert ((await till.show(code))["code"], (await till.show(code))["remaining"]) == (code, left)
    assert (await till.look("SAVE"))["remaining"] == 1
    problem(await till.use("Save"), 409, "coupon used up")
    for code in ("save", "sAVE"):
        problem(await till.use(code), 404, "no coupon found")
        assert (await till.look(code))["reason_code"] == "coupon_not_found"
        problem(await api.client.get(COUPON, params={"code": code}, headers=till.till), 404)
        problem(await till.change(code, paused=True), 404)
    key = {"customer_id": str(uuid4()), "key": "order-1"}
    first = await till.use("SAVE", **key)
    again = await till.use("SAVE", **key)
    assert (again.headers["Idempotency-Replayed"], again.json()) == ("true", first.json())

    assert (await till.change("SAVE", case_sensitive=True, availability_count=9)).json()["remaining"] == 7
    refused = problem(await till.change("SAVE", case_sensitive=False, paused=True), 409)
    assert (refused["code"], (await till.show("SAVE"))["paused"]) == ("case_sensitivity_fixed", False)
    problem(await till.change("OTHER", case_sensitive=True), 409)
    assert (await api.client.delete(f"{COUPON}Save/", headers=till.admin)).json()["code"] == "Save"
    problem(await till.use("Save"), 410)
    assert (await till.use("SAVE")).status_code == 200
    report = await api.get("/api/v1/reports/coupons?format=ndjson&code=save")
    assert sorted(line["code"] for line in map(orjson.loads, report.text.splitlines()[:-1])) == ["SAVE", "Save"]


async def test_coupons_of_one_code_with_and_without_case_are_never_both_created(api: Api, till: Till) -> None:
    bodies = [
        {"code": code, "availability_count": 1, "case_sensitive": case_sensitive}
        for code, case_sensitive in (("race", False), ("Race", True), ("RACE", True)) * 3
    ]
    answers = await asyncio.gather(*(api.client.post(COUPON, json=body, headers=till.admin) for body in bodies))
    created = sorted(answer.json()["code"] for answer in answers if answer.status_code == 201)
    assert created in (["race"], ["RACE", "Race"])


@pytest.mark.own_app
async def test_o_is_read_as_0_only_with_the_unambiguous_alphabet(api: Api, till: Till) -> None:
    await till.make("SAVEO")
    problem(await till.use("SAVE0"), 404)
    assert (await till.look("SAVE0"))["reason_code"] == "coupon_not_found"
    problem(await api.client.get(COUPON, params={"code": "SAVE0"}, headers=till.till), 404)
    response = await api.client.post(COUPON, json={"code": "SAVE0", "availability_count": 1}, headers=till.admin)
    problem(response, 409)
    await till.make("LO10", alphabet="unambiguous")
    for typed in ("lo10", "1010", "ioio", "L0-I0"):
        assert (await till.look(typed))["valid"], typed
        assert (await till.show(typed))["code"] == "LO10"
    await api.client.delete(f"{COUPON}SAVEO/", headers=till.admin)
    problem(await till.use("SAVE0"), 404)


@pytest.mark.own_app
async def test_a_use_is_reversed_once(api: Api, till: Till) -> None:
    await till.make("BACK", uses=1, rules={"maxpercustomer": 1})
    customer = str(uuid4())
    used = (await till.use("BACK", customer_id=customer, order_id="o-1")).json()
    with working(api.services.settings):
        response = await till.reverse(used["consumption_id"])
        assert response.status_code == 200, response.text
        assert {"reversed": True, "code": "BACK", "order_id": "o-1"}.items() <= response.json().items()
        assert problem(await till.reverse(used["consumption_id"]), 409)["code"] == "already_reversed"
        assert (await till.show("BACK"))["remaining"] == 1
        again = await till.use("BACK", customer_id=customer)
        assert again.status_code == 200, "the use is available again and does not count against the limit"
        assert again.json()["consumption_id"] != used["consumption_id"]
        problem(await till.use("BACK"), 409)
        other = used["consumption_id"][:-1] + ("A" if used["consumption_id"][-1] != "A" else "B")
        problem(await till.reverse(other), 404)
        problem(await till.reverse("nonsense"), 404)


@pytest.mark.own_app
async def test_concurrent_reversals_return_one_use(api: Api, till: Till) -> None:
    await till.make("RUSH", uses=5)
    used = (await till.use("RUSH")).json()
    with working(api.services.settings):
        answers = await asyncio.gather(*(till.reverse(used["consumption_id"]) for _ in range(12)))
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 11
        assert (await till.show("RUSH"))["remaining"] == 5


@pytest.mark.own_app
async def test_another_tenant_cannot_see_or_use_a_coupon(api: Api, till: Till) -> None:
    coupon = await till.make("MINE", uses=9)
    used = (await till.use("MINE")).json()
    other = await Till.of(api)
    problem(await other.use("MINE"), 404)
    assert (await other.look("MINE"))["reason_code"] == "coupon_not_found"
    for method, path in (("GET", f"{COUPON}?code=MINE"), ("PUT", f"{COUPON}MINE/"), ("DELETE", f"{COUPON}MINE/")):
        body = {"availability_count": 1} if method == "PUT" else None
        foreign = {"client_id": str(till.client_id)}
        problem(await api.client.request(method, path, json=body, headers=other.admin), 404)
        params = {"code": "MINE", **foreign} if method == "GET" else foreign
        problem(await api.client.request(method, path, params=params, json=body, headers=other.admin), 404)
    problem(await other.use("MINE", client_id=str(till.client_id)), 404)
    fields = {"availability_count": "1", "client_id": str(till.client_id)}
    problem(await api.client.post(COUPON, json=fields, headers=other.admin), 403)
    with working(api.services.settings):
        assert (await till.reverse(used["consumption_id"])).status_code == 200
        problem(await other.reverse(used["consumption_id"]), 404)
    problem(await api.redeem(coupon["id"], till.client_id), 404, "no batch found")
    problem(await api.get(f"/api/v1/batches/{coupon['id']}"), 404)
    assert coupon["id"] not in (await api.get("/api/v1/batches?limit=100")).text
    assert (await till.show("MINE"))["remaining"] == 9
    await other.make("MINE", uses=1)
    assert (await other.show("MINE"))["remaining"] == 1


@pytest.mark.own_app
async def test_a_code_of_two_clients_needs_client_id(api: Api, till: Till) -> None:
    other = await Till.of(api)
    await till.make("BOTH", uses=1)
    key = api.redeemer
    assert (await api.client.post(CONSUME, params={"code": "both"}, headers=key)).status_code == 200
    await other.make("BOTH", uses=1)
    refused = problem(await api.client.post(CONSUME, params={"code": "both"}, headers=key), 409)
    assert refused["code"] == "client_id_needed"
    chosen = {"code": "both", "client_id": str(other.client_id)}
    assert (await api.client.post(CONSUME, params=chosen, headers=key)).status_code == 200
    problem(await api.client.post(CONSUME, params=chosen, headers=key), 409, "coupon used up")
    assert (await api.client.get(COUPON, params=chosen, headers=key)).json()["client_id"] == str(other.client_id)
    problem(await api.client.get(COUPON, params={"code": "both"}, headers=key), 409)


BAD: list[dict[str, Any]] = [
    {}, {"availability_count": 0}, {"availability_count": "many"}, {"availability_count": True},
    {"availability_count": 1, "expiry_date": "31-Feb-2030"}, {"availability_count": 1, "expiry_date": "tomorrow"},
    {"availability_count": 1, "expiry_date": "2030-01-01T25:00:00"}, {"availability_count": 1, "discount_fixed": True},
    {"availability_count": 1, "discount_fixed": 5.001}, {"availability_count": 1, "discount_fixed": 1e-300},
    {"availability_count": 1, "discount_variable": 100.5}, {"availability_count": 1, "discount_fixed": 1e300},
    {"availability_count": 1, "discount_fixed": "5,00"}, {"availability_count": 1, "discount_fixed": "-5"},
    {"availability_count": 1, "discount_fixed": "1e3"}, {"availability_count": 1, "discount_fixed": "0.00"},
    {"availability_count": 1, "discount_fixed": "5.001"},
    {"availability_count": 1, "discount_fixed": "5", "currency": "XXQ"},
    {"availability_count": 1, "discount_fixed": "5.5", "currency": "JPY"},
    {"availability_count": 1, "discount_variable": "101"}, {"availability_count": 1, "code": "- -"},
    {"availability_count": 1, "code": "consume"}, {"availability_count": 1, "code": "x" * 256},
    {"availability_count": 1, "code": "a\x00b"}, {"availability_count": 1, "code_length": 0},
    {"availability_count": 1, "code": "abc", "prefix": "x"},
    {"availability_count": 1, "rules": {"maxpercustomer": -1}}, {"availability_count": 1, "client_id": "x" * 129},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD, ids=str)
async def test_invalid_input_is_a_400_and_creates_nothing(api: Api, till: Till, body: dict[str, Any]) -> None:
    before = await rows(api.services, "coupons")
    problem(await api.client.post(COUPON, json=body, headers=till.admin), 400)
    assert await rows(api.services, "coupons") == before


@pytest.mark.own_app
@pytest.mark.parametrize(
    ("content_type", "bodies"),
    [
        # A form of one unknown field, which is ignored, is no JSON.
        ("Application/JSON; charset=utf-8", [b"&", b" ", b"\0", b"[]", b"paused=true"]),
        ("application/x-www-form-urlencoded", [b"&", b"&&&", b" & ", b" ", b"\r\n"]),
    ],
)
async def test_a_body_without_fields_is_a_400(api: Api, till: Till, bodies: list[bytes], content_type: str) -> None:
    await till.make("EMPTY")
    sent, used = (key | {"Content-Type": content_type} for key in (till.admin, till.till))
    for body in bodies:
        for method in ("PUT", "DELETE"):
            problem(await api.client.request(method, f"{COUPON}EMPTY/", content=body, headers=sent), 400)
        problem(await api.client.post(CONSUME, params={"code": "EMPTY"}, content=body, headers=used), 400)
    shown = await till.show("EMPTY")
    assert (shown["remaining"], shown["paused"], shown["deleted"]) == (3, False, False)


@pytest.mark.own_app
async def test_each_route_requires_its_scope(api: Api, till: Till) -> None:
    await till.make("KEYS")
    problem(await api.client.post(COUPON, json={"availability_count": 1}, headers=till.till), 403)
    problem(await api.client.put(f"{COUPON}KEYS/", json={}, headers=till.till), 403)
    problem(await api.client.delete(f"{COUPON}KEYS/", headers=till.till), 403)
    problem(await api.client.post(CONSUME, params={"code": "KEYS"}, headers=till.admin), 403)
    problem(await api.client.get(CONSUME, params={"code": "KEYS"}, headers=till.admin), 403)
    assert (await api.client.get(COUPON, params={"code": "KEYS"}, headers=till.admin)).status_code == 200
    problem(await api.client.post(COUPON, json={"availability_count": 1}, headers=api.admin), 400)


@pytest.mark.own_app
async def test_changes_are_in_the_audit_trail_and_uses_in_the_ledger(api: Api, till: Till) -> None:
    await till.make("BOOK", discount_fixed="3.50")
    customer = uuid4()
    await till.use("BOOK", customer_id=str(customer), order_id="order-7", key="k")
    await till.change("BOOK", discount_fixed="4.50")
    await till.use("BOOK")
    await api.client.delete(f"{COUPON}BOOK/", headers=till.admin)
    with working(api.services.settings):
        async with asyncio.timeout(20):
            while len(ledger := await rows(api.services, "consumptions")) < 2:
                await asyncio.sleep(0.05)
    ledger.sort(key=lambda row: row["seq"])
    assert [(row["seq"], row["terms"], row["order_id"]) for row in ledger] == [(1, 1, "order-7"), (2, 2, None)]
    assert str(ledger[0]["customer_id"]) == str(customer)
    assert all(row["api_key_id"] > 0 for row in ledger)
    terms = {row["number"]: row["terms"] for row in await rows(api.services, "coupon_terms")}
    assert '"discount_fixed":"3.50"' in terms[1]
    assert '"discount_fixed":"4.50"' in terms[2]
    actions = [row["action"] for row in await rows(api.services, "audit_log") if row["action"].startswith("coupon")]
    assert actions == ["coupon.create", "coupon.change", "coupon.delete"]


@pytest.mark.own_app
async def test_an_invalid_code_is_a_400(api: Api, till: Till) -> None:
    for path in ("%00", "%20", "x" * 256):
        for method in ("PUT", "DELETE"):
            problem(await api.client.request(method, f"{COUPON}{path}/", headers=till.admin), 400)
    problem(await api.client.get(COUPON, params={"code": "a\x00"}, headers=till.till), 400)
    problem(await api.client.put(f"{COUPON}unknown/", headers=till.admin), 404)
    hidden = problem(
        await api.client.post(COUPON, json={"code": "A\u200b1", "availability_count": 1}, headers=till.admin), 400
    )
    assert hidden["error"] == "code must not contain invisible characters, such as U+200B ZERO WIDTH SPACE at 2"


@pytest.mark.own_app
async def test_a_customer_can_be_erased(api: Api, till: Till) -> None:
    await till.make("ERASE", rules={"maxpercustomer": 1})
    customer = str(uuid4())
    used = (await till.use("ERASE", customer_id=customer, order_id="o", key="k")).json()
    with working(api.services.settings):
        response = await api.client.delete(f"/api/v1/customers/{customer}", headers=api.admin)
        assert response.status_code == 200, response.text
        assert (response.json()["consumptions"], response.json()["redemptions"]) == (1, 0)
        (row,) = await rows(api.services, "consumptions")
        assert (row["customer_id"], row["key_hash"], row["order_id"]) == (None, None, "o")
        assert (await till.use("ERASE", customer_id=customer)).status_code == 200, (
            "the limit of the customer was erased too"
        )
        assert (await till.reverse(used["consumption_id"])).status_code == 200


async def test_concurrent_requests_create_a_coupon_once(api: Api, till: Till) -> None:
    bodies = [
        {"code": code, "availability_count": 2} for code in ("SAME-1", "same1", "S A M E 1", "SAMEl") for _ in range(3)
    ]
    answers = await asyncio.gather(*(api.client.post(COUPON, json=body, headers=till.admin) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11


async def test_concurrent_uses_and_changes_never_exceed_the_number_of_uses(api: Api, till: Till) -> None:
    """The number of uses changes while the coupon is used. Each use is counted, also one above a lowered number."""
    await till.make("RACE", uses=50)
    statuses: list[int] = []

    async def consume() -> None:
        for _ in range(60):
            statuses.append((await till.use("RACE")).status_code)

    async def change() -> None:
        for count in (60, 30, 80, 55, 100, 70):
            response = await till.change("RACE", availability_count=count)
            assert response.status_code == 200, response.text

    await asyncio.gather(*(consume() for _ in range(4)), change())
    shown, used = await till.show("RACE"), statuses.count(200)
    assert shown["used"] == used <= 100
    assert shown["remaining"] == max(0, 70 - used)


async def test_an_idempotency_key_belongs_to_one_order(api: Api, till: Till) -> None:
    await till.make("ORDER")
    first = await till.use("ORDER", key="k", order_id="order 1/ä")
    assert (await till.use("ORDER", key="k", order_id="order 1/ä")).json() == first.json()
    for other in ({"order_id": "order 2/ä"}, {"order_id": "order 1/ä "}, {"order_id": "order 1"}, {}):
        answer = await till.use("ORDER", key="k", **other)
        if other.get("order_id", "").strip() == "order 1/ä":
            assert answer.json() == first.json()
        else:
            assert problem(answer, 422)["code"] == "idempotency_key_reused"
    assert (await till.show("ORDER"))["remaining"] == 2


async def test_a_public_key_cannot_claim_the_order_numbers_of_a_shop(api: Api, till: Till) -> None:
    await till.make("ORDER", uses=9)
    public, unbound = await api.key("public", client_id=till.client_id), await api.key("redeem")
    next_key = await api.key("redeem", client_id=till.client_id)
    named = {"code": "ORDER", "client_id": str(till.client_id)}

    async def consume(key: dict[str, str], **how: Any) -> tuple[str, bool]:
        answer = await api.client.post(CONSUME, headers={**key, "Idempotency-Key": "order-4712"}, **how)
        assert answer.status_code == 200, answer.text
        return answer.json()["consumption_id"], "idempotency-replayed" in answer.headers

    forms: tuple[dict[str, Any], ...] = ({"json": named}, {"data": named}, {"files": {"code": (None, "ORDER")}})
    claimed = [await consume(public, **how) for how in forms]
    shop = [await consume(key, **how) for key in (till.till, next_key) for how in forms]
    operator = await consume(unbound, json=named)
    assert [replayed for _, replayed in claimed] == [False, True, True]
    # The shop's own next key repeats; so a key may be replaced while requests are repeated.
    assert [replayed for _, replayed in shop] == [False, True, True, True, True, True]
    assert len({*claimed, *shop, operator} - {(one, True) for one, _ in (*claimed, *shop)}) == 3
    assert not operator[1]
    assert (await till.show("ORDER"))["remaining"] == 6


@pytest.mark.own_app
@pytest.mark.parametrize("alphabet", ["-–", "–—"])
async def test_a_code_that_cannot_be_looked_up_is_not_drawn(api: Api, till: Till, alphabet: str) -> None:
    body = {"code_length": 40, "alphabet": alphabet, "availability_count": 1}
    found = problem(await api.client.post(COUPON, json=body, headers=till.admin), 400)
    assert "alphabet needs two characters that look-ups of coupons distinguish" in found["error"]
    assert await rows(api.services, "coupons") == []


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"code_length": 1}, "code_length needs at least 6 characters"),
        ({"code_length": 5}, "code_length needs at least 6 characters"),
        ({"code_length": 6, "check": True}, "code_length needs at least 7 characters"),
        ({"code_length": "8", "alphabet": "numeric"}, "code_length needs at least 9 characters"),
        ({"pattern": "SUMMER-####-#"}, "pattern needs at least 6 places (#)"),
        # Look-ups read a and A as one character, so this code has two to the power of 28 forms.
        ({"code_length": 28, "alphabet": "aAbB"}, "code_length needs at least 29 characters"),
    ],
)
async def test_a_code_that_could_be_found_by_trial_is_not_drawn(
    api: Api, till: Till, form: dict[str, Any], error: str
) -> None:
    body = {"availability_count": 1, **form}
    before = await rows(api.services, "coupons")
    found = problem(await api.client.post(COUPON, json=body, headers=till.admin), 400)
    assert error in found["error"]
    assert "one of 500,000,000" in found["error"]
    assert await rows(api.services, "coupons") == before


@pytest.mark.parametrize("form", [{"code_length": 6}, {"pattern": "A-#########", "alphabet": "numeric"}, {"code": "G"}])
async def test_a_code_at_the_floor_is_drawn_and_a_chosen_code_may_be_short(
    api: Api, till: Till, form: dict[str, Any]
) -> None:
    assert (
        await api.client.post(COUPON, json={"availability_count": 1, **form}, headers=till.admin)
    ).status_code == 201


async def test_a_look_up_without_client_id_is_bounded_by_the_redeem_timeout(
    settings: Settings,
) -> None:
    async with running_app(settings.model_copy(update={"redeem_timeout_ms": 200, "postgres_pool_size": 2})) as api:
        till = await Till.of(api)
        await till.make("WHOSE")
        unbound = await api.key("redeem")
        consume = partial(api.client.post, f"{CONSUME}?code=WHOSE", headers=unbound)
        # The other connection of the pool listens for changes of API keys.
        async with api.services.stores.postgres.acquire():
            answers = await asyncio.gather(*(consume() for _ in range(MAX_LOOKUPS + 5)))
            codes = Counter(problem(answer, 503)["code"] for answer in answers)
            assert codes == {"postgres_unavailable": MAX_LOOKUPS, "overloaded": 5}
        assert (await consume()).status_code == 200
        assert (await till.show("WHOSE"))["remaining"] == 2


async def test_the_worker_applies_a_change_that_redis_has_not_received(api: Api, till: Till) -> None:
    coupon = await till.make("LATER", uses=5)
    postgres = api.owner
    await postgres.execute("UPDATE coupons SET available = 2")
    await postgres.execute("UPDATE batches SET revision = revision + 1 WHERE kind = 'coupon'")
    with working(api.services.settings):
        async with asyncio.timeout(20):
            while (await till.look("LATER"))["remaining"] != 2:
                await asyncio.sleep(0.05)
    assert coupon["remaining"] == 5
