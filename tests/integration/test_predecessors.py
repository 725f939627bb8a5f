"""What clients of the predecessors send and this service does not know, on their paths and on our own."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from issuer.http.app import OPERATIONS
from tests.support.api import REDEEM, UPLOAD, Api, problem
from tests.support.coupon_service import SERVICE
from tests.support.coupons import CONSUME, COUPON, Till

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


OURS: Final = [operation for operation in OPERATIONS if not operation.lenient]


async def test_our_own_paths_name_the_parameters_that_they_have(api: Api) -> None:
    assert len(OURS) > 15
    key = await api.key("admin", "redeem")
    for operation in OURS:
        path = operation.path.replace(":code", "").replace("{", "").replace("}", "")
        refused = await api.client.request(operation.method, path, params={"nope": "1"}, headers=key)
        expected = ", ".join(operation.query) or "this path takes none"
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
