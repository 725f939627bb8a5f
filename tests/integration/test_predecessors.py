"""What clients of the predecessors send and this service does not know, on their paths and on our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from issuer.http.app import OPERATIONS
from tests.support.api import REDEEM, UPLOAD, Api, problem
from tests.support.coupon_service import SERVICE
from tests.support.coupons import CONSUME, COUPON, Till

pytestmark = pytest.mark.shared_app

ROWS: Final = {"file": ("codes.csv", b"client_id,code\n", "text/csv")}


async def test_unknown_fields_and_parameters_are_ignored_on_their_paths(api: Api, till: Till) -> None:
    batch, client = await api.batch("A-1")
    send, odd = api.client, {"debug": "1", "x-trace": "ä"}
    wish = {"batchid": str(batch), "clientid": str(client), "customerid": str(uuid4()), "channel": "web", "n": 1}
    redeemed = await send.post(REDEEM, params=odd, json=wish, headers=api.redeemer)
    assert redeemed.json() == {"code": "A-1"}
    listed = await send.get("/api/v1/batches", params=odd, headers=api.admin)
    assert [item["id"] for item in listed.json()] == [str(batch)], "the plain list, not a page"
    paged = await send.get("/api/v1/batches", params={"limit": "1", **odd}, headers=api.admin)
    assert paged.json()["next_cursor"] is None
    file = ("codes.csv", f"client_id,code\n{client},A-2\n".encode(), "text/csv")
    form = {"batch_name": "Two", "rules": "{}", "uploader": "me"}
    uploaded = await send.post(UPLOAD, params=odd, files={"file": file}, data=form, headers=api.admin)
    assert uploaded.json()["loaded"] == 1
    assert (await send.get("/healthcheck", params=odd)).status_code == 200

    fields = {"code": "SAVE", "availability_count": 3, "typo": {"a": [1]}, **odd}
    assert (await send.post(COUPON, params={"q": "1"}, json=fields, headers=till.admin)).status_code == 201
    named = {"code": "save", **odd}
    assert (await send.get(COUPON, params=named, headers=till.till)).json()["code"] == "SAVE"
    assert (await send.get(CONSUME, params=named, headers=till.till)).json()["valid"] is True
    for body in ({"data": {"till": "3"}}, {"files": {"till": (None, "3")}}, {"json": {"till": [3]}}):
        assert (await send.post(CONSUME, params=named, headers=till.till, **body)).status_code == 200, body
    changed = await send.put(f"{COUPON}SAVE/", params=odd, json={"typo": 1, "paused": True}, headers=till.admin)
    assert changed.json()["paused"] is True
    assert (await send.delete(f"{COUPON}SAVE/", params=odd, headers=till.admin)).json()["deleted"] is True
    problem(await send.post(f"{CONSUME}{'x' * 32}/reverse", params=odd, headers=till.till), 404)

    new = {"name": "C", "total": 1, "startTime": "2020-01-01T00:00:00Z", "owner": {"team": 1}}
    created = await send.post(f"{SERVICE}/CreateCampaign", params=odd, json=new, headers=api.admin)
    asked = {"campaignId": created.json()["campaignId"], "userId": 7}
    issued = await send.post(f"{SERVICE}/IssueCoupon", params=odd, json=asked, headers=api.redeemer)
    shown = await send.post(f"{SERVICE}/GetCampaign", params=odd, json=asked, headers=api.admin)
    assert shown.json()["issuedCodes"] == [issued.json()["code"]]


@pytest.mark.own_app
async def test_a_slash_at_the_end_of_their_paths_makes_no_difference(api: Api, till: Till) -> None:
    batch, client = await api.batch("A-1", "A-2")
    send = api.client
    for path in (REDEEM, f"{REDEEM}/"):
        wish = {"batchid": str(batch), "clientid": str(client), "customerid": str(uuid4())}
        assert (await send.post(path, json=wish, headers=api.redeemer)).status_code == 200, path
    for path in ("/api/v1/batches", "/api/v1/batches/"):
        assert len((await api.get(path)).json()) == 1
    file, key = ("codes.csv", f"client_id,code\n{client},A-3\n".encode(), "text/csv"), {"Idempotency-Key": "up"}
    answers = [
        await send.post(path, files={"file": file}, data={"batch_name": "Two"}, headers=api.admin | key)
        for path in (UPLOAD, f"{UPLOAD}/")
    ]
    assert answers[0].json()["loaded"] == 1
    assert answers[1].json() == answers[0].json(), "the same request, so the kept answer"
    for path in ("/healthcheck", "/healthcheck/"):
        assert (await send.get(path)).status_code == 200

    for number, path in enumerate((COUPON, COUPON[:-1])):
        named, consume = {"code": f"SAVE{number}"}, CONSUME[: -number or None]
        assert (await send.post(path, json=named | {"availability_count": 5}, headers=till.admin)).status_code == 201
        assert (await send.get(path, params=named, headers=till.till)).status_code == 200
        assert (await send.post(consume, params=named, headers=till.till)).status_code == 200
        assert (await send.get(consume, params=named, headers=till.till)).json()["remaining"] == 4
        problem(await send.post(f"{CONSUME}{'x' * 32}/reverse{'/' * number}", headers=till.till), 404)
        coupon = f"{COUPON}SAVE{number}{'/' * number}"
        assert (await send.put(coupon, json={"paused": True}, headers=till.admin)).json()["paused"] is True
        assert (await send.delete(coupon, headers=till.admin)).json()["deleted"] is True

    new = {"name": "C", "total": 2, "startTime": "2020-01-01T00:00:00Z"}
    campaign = (await send.post(f"{SERVICE}/CreateCampaign/", json=new, headers=api.admin)).json()["campaignId"]
    for end in ("", "/"):
        asked = {"campaignId": campaign}
        assert (await send.post(f"{SERVICE}/IssueCoupon{end}", json=asked, headers=api.redeemer)).status_code == 200
        assert (await send.post(f"{SERVICE}/GetCampaign{end}", json=asked, headers=api.admin)).status_code == 200


OURS: Final = [operation for operation in OPERATIONS if not (operation.lenient or operation.page or operation.delivery)]
"""A page refuses them, too, with a page. A delivery of a shop may have any."""


async def test_our_own_paths_name_the_parameters_that_they_have(api: Api) -> None:
    assert len(OURS) > 15
    key = await api.key("admin", "redeem")
    for operation in OURS:
        path = operation.path.replace(":code", "").replace("{", "").replace("}", "")
        refused = await api.client.request(operation.method, path, params={"nope": "1"}, headers=key)
        expected = ", ".join(operation.parameters) or "this path takes none"
        assert expected in problem(refused, 400)["detail"], (operation.method, path)
        for name in operation.query:
            twice = await api.client.request(operation.method, f"{path}?{name}=1&{name}=1", headers=key)
            assert "more than once" in problem(twice, 400)["detail"], (operation.method, path)
    for path in ("/api/v1/campaigns/", "/livez/", "/api/v1/audit/", "/metrics/"):
        problem(await api.get(path), 404)


async def test_a_name_that_is_given_twice_is_refused_on_their_paths_too(api: Api, till: Till) -> None:
    await till.make("SAVE")
    send, params = api.client, {"code": "SAVE"}
    twice: list[tuple[str, dict[str, Any]]] = [
        (f"{CONSUME}?code=SAVE&odd=1&odd=2", {}),
        (f"{CONSUME}?code=SAVE&odd=1", {"data": {"odd": "2"}}),
        (CONSUME, {"params": params, "content": b'{"odd": 1, "odd": 1}'}),
        (CONSUME, {"params": params, "files": [("odd", (None, "1")), ("odd", (None, "2"))]}),
        (COUPON, {"content": b'{"availability_count": 1, "odd": {"a": 1, "a": 2}}'}),
    ]
    for path, asked in twice:
        headers = till.admin if path == COUPON else till.till
        problem(await send.post(path, headers=headers, **asked), 400)
    assert (await till.show("SAVE"))["remaining"] == 3
    forms: list[list[tuple[str, Any]]] = [
        [("batch_name", (None, "A")), ("batch_name", (None, "B")), ("file", ROWS["file"])],
        [("batch_name", (None, "A")), ("odd", (None, "1")), ("odd", (None, "2")), ("file", ROWS["file"])],
    ]
    for form in forms:
        assert "more than once" in problem(await send.post(UPLOAD, files=form, headers=api.admin), 400)["error"]
    problem(await send.get("/api/v1/batches?limit=1&limit=2", headers=api.admin), 400)


async def test_amounts_may_be_json_numbers_and_keep_their_digits(till: Till) -> None:
    for number, shown in (("20", "20"), ("20.10", "20.10"), ("0.07", "0.07"), ("1e1", "10"), ("999999999999.99",) * 2):
        body = f'{{"availability_count": 5, "discount_fixed": {number}, "discount_variable": 12.50}}'
        made = await till.api.client.post(COUPON, content=body, headers=till.admin)
        assert (made.json()["discount_fixed"], made.json()["discount_variable"]) == (shown, "12.50")
        used = await till.use(made.json()["code"])
        assert used.json()["discount_fixed"] == shown
        changed = await till.api.client.put(
            f"{COUPON}{made.json()['code']}/", content='{"discount_fixed": 1.10}', headers=till.admin
        )
        assert changed.json()["discount_fixed"] == "1.10"


async def test_dates_of_their_clients_are_read(api: Api, till: Till) -> None:
    for text, shown in (
        ("2030-01-15T18:00:00+01:00", "2030-01-15T17:00:00.000Z"), ("2030-01-15 12:30:00", "2030-01-15T12:30:00.000Z"),
        ("9999-12-31", None), ("9999-12-31 23:59:59", None),
    ):  # fmt: skip
        # As it stands, so that the + is a space for the server.
        form = f"availability_count=1&expiry_date={text.replace(' ', '%20')}"
        headers = till.admin | {"content-type": "application/x-www-form-urlencoded"}
        made = await api.client.post(COUPON, content=form, headers=headers)
        assert (made.status_code, made.json().get("expiry_date")) == (201, shown), text
        made = await api.client.post(f"{COUPON}?{form}", headers=till.admin)
        assert (made.status_code, made.json().get("expiry_date")) == (201, shown), text
    for query in ("from=2026-06-01T00:00:00+02:00", "to=2026-06-01T00:00:00+0200"):
        assert (await api.get(f"/api/v1/reports/redemptions?{query}")).status_code == 200


async def test_a_byte_order_mark_before_json_is_ignored_on_every_route(api: Api, till: Till) -> None:
    """As PowerShell and some editors write it."""
    batch, client = await api.batch("A-1")
    key = api.admin | {"content-type": "application/json"}

    async def send(method: str, path: str, text: str, headers: dict[str, str] = key) -> Any:
        answer = await api.client.request(method, path, content="\ufeff" + text, headers=headers)
        assert answer.status_code in (200, 201), (path, answer.text)
        return answer.json()

    wish = f'{{"batchid": "{batch}", "clientid": "{client}", "customerid": "{uuid4()}"}}'
    assert await send("POST", REDEEM, wish, api.redeemer) == {"code": "A-1"}
    assert (await send("POST", "/api/v1/batches", '{"name": "B"}'))["name"] == "B"
    assert (await send("PATCH", f"/api/v1/batches/{batch}", '{"name": "C"}'))["name"] == "C"
    assert (await send("POST", COUPON, '{"code": "SAVE", "availability_count": 1}', till.admin))["code"] == "SAVE"
    assert (await send("POST", CONSUME, '{"code": "SAVE"}', till.till))["consumed"] is True
    new = '{"name": "C", "total": 1, "startTime": "2020-01-01T00:00:00Z"}'
    campaign = (await send("POST", f"{SERVICE}/CreateCampaign", new))["campaignId"]
    asked = f'{{"campaignId": "{campaign}"}}'
    issued = await send("POST", f"{SERVICE}/IssueCoupon", asked, api.redeemer | {"content-type": "application/json"})
    assert (await send("POST", f"{SERVICE}/GetCampaign", asked))["issuedCodes"] == [issued["code"]]
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = await api.client.post(COUPON, content="\ufeffavailability_count=1", headers=till.admin | form)
    assert answer.status_code == 201, answer.text


async def test_ids_are_read_in_each_form_of_a_uuid_on_their_paths(api: Api, till: Till) -> None:
    batch, client = await api.batch(*(f"A-{number}" for number in range(4)))
    new = {"name": "C", "total": 4, "startTime": "2020-01-01T00:00:00Z"}
    campaign = UUID(
        (await api.client.post(f"{SERVICE}/CreateCampaign", json=new, headers=api.admin)).json()["campaignId"]
    )
    await till.make("SAVE", uses=8, rules={"maxpercustomer": 4})
    customer = uuid4()
    forms: list[Callable[[UUID], str]] = [
        str,
        lambda one: one.hex.upper(),
        lambda one: f"{{{one}}}",
        lambda one: one.urn,
    ]
    for form in forms:
        wish = {"batchid": form(batch), "clientid": form(client), "customerid": form(customer)}
        assert (await api.client.post(REDEEM, json=wish, headers=api.redeemer)).status_code == 200, wish
        use = {"code": "save", "client_id": form(till.client_id), "customer_id": form(customer)}
        assert (await api.client.post(CONSUME, data=use, headers=api.redeemer)).status_code == 200, use
        multipart = {name: (None, value) for name, value in use.items()}
        look = await api.client.get(CONSUME, params=use, headers=api.redeemer)
        assert look.status_code == 200, look.text
        asked = {"campaignId": form(campaign)}
        for method, key in (("IssueCoupon", api.redeemer), ("GetCampaign", api.admin)):
            answer = await api.client.post(f"{SERVICE}/{method}", json=asked, headers=key)
            assert answer.status_code == 200, (method, asked, answer.text)
    refused = await api.client.post(CONSUME, files=multipart, headers=api.redeemer)
    problem(refused, 403, "rule conditions not met")
    shown = await api.client.get(f"/api/v1/customers/{customer}/redemptions", headers=api.admin)
    assert shown.status_code == 200
