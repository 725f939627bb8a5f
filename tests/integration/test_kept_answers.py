"""Idempotency-Keys of administrative requests: an act is carried out once, and its answer is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import pytest

from issuer.http.app import OPERATIONS
from issuer.http.campaigns.connect_service import CREATE_PATH
from issuer.http.coupons.consume_route import CONSUME_PATH
from issuer.http.loyalty.operations import LOYALTY
from issuer.storage import kept_answers
from issuer.storage.kept_answers import AnswerKey, delete_expired_answers
from tests.support.api import UPLOAD, Api, problem
from tests.support.coupon_service import PAST, call, failure
from tests.support.recording import drain

pytestmark = pytest.mark.shared_app

CLIENT: Final = UUID("cccccccc-0000-4000-8000-000000000003")
Send = Callable[[str, str], Awaitable[httpx.Response]]
"""Sends the request of an operation: the Idempotency-Key, and a text that makes it another request."""


def keyed(api: Api, key: str) -> dict[str, str]:
    return {**api.admin, "Idempotency-Key": key} if key else api.admin


async def upload(api: Api, key: str, text: str) -> httpx.Response:
    # Another boundary every time, as clients send it.
    file = {"file": ("codes.csv", f"client_id,code\n{CLIENT},{text}-1\n{CLIENT},{text}-2\n".encode())}
    return await api.client.post(UPLOAD, files=file, data={"batch_name": "Summer"}, headers=keyed(api, key))


async def post(api: Api, key: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return await api.client.post(path, json=body, headers=keyed(api, key))


async def sender_of(api: Api, path: str) -> Send:
    """Return how a request of the operation is sent."""
    if path == UPLOAD:
        return lambda key, text: upload(api, key, text)
    if path == "/api/v1/clients":
        return lambda key, text: post(api, key, path, {"id": text})
    if path == "/api/v1/batches":
        return lambda key, text: post(api, key, path, {"name": text})
    if path == "/api/v1/batches/{batch_id}/codes/generate":
        batch = (await post(api, "", "/api/v1/batches", {"name": "to fill"})).json()["id"]
        body = {"count": 3, "client_id": str(CLIENT)}
        return lambda key, text: post(api, key, f"/api/v1/batches/{batch}/codes/generate", {**body, "prefix": text})
    if path == "/api/v1/campaigns":
        return lambda key, text: post(api, key, path, {"name": text, "total": 2, "starts_at": PAST})
    if path == "/coupon/":
        return lambda key, text: post(
            api, key, path, {"availability_count": 1, "client_id": str(CLIENT), "code_length": 12, "product_id": text}
        )
    if path == "/coupon/consume/{consumption_id}/reverse":
        return await _reversals(api)
    if path == "/api/v1/quarantine/release":
        return await _releases(api)
    if path == "/api/v1/dead-letters/retry":
        return lambda key, text: post(api, key, path, {"id": sum(text.encode())})
    raise AssertionError(f"no request for {path}: add one")


async def _reversals(api: Api) -> Send:
    coupon = {"code": "SAVE20", "availability_count": 9, "client_id": str(CLIENT)}
    assert (await post(api, "", "/coupon/", coupon)).status_code == 201
    consumptions: dict[str, str] = {}

    async def send(key: str, text: str) -> httpx.Response:
        if text not in consumptions:
            fields = {"code": "SAVE20", "client_id": str(CLIENT)}
            used = await api.client.post(CONSUME_PATH, json=fields, headers=api.redeemer)
            consumptions[text] = used.json()["consumption_id"]
            await drain(api.services.stores)
        path = f"/coupon/consume/{consumptions[text]}/reverse"
        headers = {**api.redeemer, "Idempotency-Key": key} if key else api.redeemer
        return await api.client.post(path, headers=headers)

    return send


async def _releases(api: Api) -> Send:
    batches = {text: (await api.batch(str(uuid4())))[0] for text in ("one", "two")}

    async def send(key: str, text: str) -> httpx.Response:
        body = {"batch_id": str(batches[text]), "journals_replayed": True}
        return await post(api, key, "/api/v1/quarantine/release", body)

    return send


async def acts(api: Api) -> int:
    """Return how many acts are recorded: what is created, and what is reversed."""
    return int(
        await api.services.stores.postgres.fetchval(
            "SELECT (SELECT count(*) FROM audit_log) + (SELECT count(*) FROM reversals)"
        )
    )


ELSEWHERE: Final = (
    "/api/v1/keys", "/api/v1/operators", "/api/v1/recoveries", "/api/v1/find", "/api/v1/reconciliations",
)  # fmt: skip
"""Their repeats are tested where they are: a secret is shown once, an act of an operator has no other body."""
CREATING: Final = [
    operation.path
    for operation in OPERATIONS
    if operation.keeps_answers and operation not in LOYALTY and not operation.path.startswith(ELSEWHERE)
]
"""Those of loyalty are repeated with the examples of the OpenAPI document (test_openapi_examples.py), and with other
bodies and in parallel in test_points_keys.py."""


def test_every_post_keeps_its_answer_but_hot_ones() -> None:
    assert {operation.path for operation in OPERATIONS if operation.hot} == {CONSUME_PATH}
    posts = [operation for operation in OPERATIONS if operation.method == "POST"]
    others = {operation.path for operation in posts if operation.page or operation.delivery or operation.basic}
    assert {operation.path for operation in posts if not operation.keeps_answers} == {CONSUME_PATH, *others}


@pytest.mark.parametrize("path", CREATING)
async def test_a_repeated_request_is_answered_alike_and_carried_out_once(api: Api, path: str) -> None:
    send = await sender_of(api, path)
    first = await send("order-1", "one")
    assert first.status_code in (200, 201), first.text
    assert "idempotency-replayed" not in first.headers
    done = await acts(api)
    again = await send("order-1", "one")
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert {name: value for name, value in again.headers.items() if name != "idempotency-replayed"} == first.headers
    other = await send("order-1", "two")
    assert problem(other, 422, "idempotency key was used with another request")["code"] == "idempotency_key_reused"
    assert await acts(api) == done
    # Another key is another request.
    assert (await send("order-2", "two")).status_code == first.status_code
    assert await acts(api) > done


@pytest.mark.own_app
@pytest.mark.parametrize("path", CREATING)
async def test_a_request_in_progress_is_not_carried_out_twice(api: Api, path: str) -> None:
    send = await sender_of(api, path)
    (operation,) = (one for one in OPERATIONS if one.path == path and one.method == "POST")
    key = AnswerKey(None, f"POST {operation.path}", "order-1")
    done = 0
    async with api.services.stores.postgres.acquire() as connection, connection.transaction():
        # As the transaction of the first request does.
        assert await kept_answers.try_lock(connection, key)
        if "reverse" in path:
            await send("", "one")
        done = await acts(api)
        busy = await send("order-1", "two" if "reverse" in path else "one")
        assert problem(busy, 409)["code"] == "idempotency_key_in_use"
        assert busy.headers["retry-after"] == "1"
    if path != "/api/v1/campaigns":
        # The batch of a campaign that could not be created is ended.
        assert await acts(api) == done
    assert (await send("order-1", "two" if "reverse" in path else "one")).status_code in (200, 201)


@pytest.mark.own_app
async def test_concurrent_requests_with_one_key_create_one_batch(api: Api) -> None:
    answers = await asyncio.gather(*(upload(api, "order-1", "A") for _ in range(2)))
    answers.append(await upload(api, "order-1", "A"))
    good = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in good}) == 1
    assert answers[-1].headers["idempotency-replayed"] == "true"
    assert await api.services.stores.postgres.fetchval("SELECT count(*) FROM batches") == 1


async def test_a_refusal_is_not_kept(api: Api) -> None:
    assert problem(await post(api, "k", "/api/v1/batches", {"name": ""}), 400)
    assert (await post(api, "k", "/api/v1/batches", {"name": "good"})).status_code == 201
    batch = (await post(api, "", "/api/v1/batches", {"name": "small"})).json()["id"]
    path = f"/api/v1/batches/{batch}/codes/generate"
    await api.upload([(CLIENT, f"{number:02d}") for number in range(100)])
    full = {"count": 1, "client_id": str(CLIENT), "alphabet": "numeric", "length": 2}
    assert problem(await post(api, "k", path, full), 400)["code"] == "code_space_too_small"
    assert (await post(api, "k", path, {"count": 1, "client_id": str(CLIENT)})).status_code == 201


async def test_each_client_has_keys_of_its_own(api: Api) -> None:
    one, two = [await api.key("admin", client_id=uuid4()) for _ in range(2)]
    ids = set()
    for key in (one, two, api.admin):
        for _ in range(2):
            answer = await api.client.post(
                "/api/v1/batches", json={"name": "x"}, headers={**key, "Idempotency-Key": "order-4712"}
            )
            ids.add(answer.json()["id"])
    assert len(ids) == 3


@pytest.mark.parametrize("key", ["", "é", "x" * 256, "a\x00b"])
async def test_invalid_keys_are_refused(api: Api, key: str) -> None:
    headers = [(name.encode(), value.encode()) for name, value in api.admin.items()]
    answer = await api.client.post(
        "/api/v1/batches", json={"name": "x"}, headers=[*headers, (b"Idempotency-Key", key.encode())]
    )
    assert problem(answer, 400)["code"] == "invalid_idempotency_key"


@pytest.mark.own_app
async def test_an_answer_is_kept_for_a_day(api: Api) -> None:
    postgres = api.services.stores.postgres
    ids = {(await post(api, "k", "/api/v1/batches", {"name": "x"})).json()["id"]}
    await postgres.execute("UPDATE kept_answers SET kept_at = now() - interval '23 hours 59 minutes'")
    ids.add((await post(api, "k", "/api/v1/batches", {"name": "x"})).json()["id"])
    assert await delete_expired_answers(postgres, 10) == 0
    assert len(ids) == 1
    await postgres.execute("UPDATE kept_answers SET kept_at = now() - interval '24 hours'")
    ids.add((await post(api, "k", "/api/v1/batches", {"name": "other"})).json()["id"])
    assert len(ids) == 2
    for number in range(5):
        await post(api, f"k{number}", "/api/v1/batches", {"name": "x"})
    await postgres.execute("UPDATE kept_answers SET kept_at = now() - interval '24 hours' WHERE key <> 'k'")
    assert [await delete_expired_answers(postgres, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert [row["key"] for row in await postgres.fetch("SELECT key FROM kept_answers")] == ["k"]


@pytest.mark.own_app
async def test_an_answer_that_is_too_large_is_refused_and_nothing_done(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_answers, "MAX_BODY_BYTES", 10)
    assert "too large to be kept" in problem(await post(api, "k", "/api/v1/batches", {"name": "x"}), 400)["error"]
    assert await api.services.stores.postgres.fetchval("SELECT count(*) FROM batches") == 0
    assert (await post(api, "", "/api/v1/batches", {"name": "x"})).status_code == 201


@pytest.mark.own_app
async def test_the_coupon_service_keeps_its_answers(api: Api) -> None:
    fields = {"name": "Concert", "total": 2, "startTime": PAST}
    key = {**api.admin, "Idempotency-Key": "k"}
    first = await call(api, "CreateCampaign", key, **fields)
    again = await call(api, "CreateCampaign", key, **fields)
    assert (first.status_code, again.json()) == (200, first.json())
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    other = await call(api, "CreateCampaign", key, **{**fields, "total": 3})
    assert "another request" in failure(other, 400, "failed_precondition")
    stores = api.services.stores
    async with stores.postgres.acquire() as connection, connection.transaction():
        assert await kept_answers.try_lock(connection, AnswerKey(None, CREATE_PATH, "new"))
        busy = await call(api, "CreateCampaign", {**api.admin, "Idempotency-Key": "new"}, **fields)
    assert "in progress" in failure(busy, 409, "aborted")
    assert await stores.postgres.fetchval("SELECT count(*) FROM campaigns WHERE ready_at IS NOT NULL") == 1
