"""POST /api/v1/code/redeem on the real application and real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from issuer.batches.revisions import push_batch
from issuer.batches.rules import parse_rules
from issuer.batches.store import BatchChanges, change_batch
from issuer.http.problems.problem import TITLES
from issuer.settings import Auth, Settings
from issuer.storage.redis_link import RedisUnavailableError
from tests.support.api import REDEEM, Api, problem, running_app
from tests.support.recording import failing_after

pytestmark = pytest.mark.shared_app

ID = "7A4f8e5c-1d7b-4f0e-9b1e-2f6c3d5a9e10"


async def test_each_redemption_gets_a_code_of_its_own_in_order(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2", "Ä/3")
    codes = []
    for _ in range(3):
        response = await api.redeem(batch, client)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        codes.append(response.json())
    assert codes == [{"code": "A-1"}, {"code": "A-2"}, {"code": "Ä/3"}]
    problem(await api.redeem(batch, client), 404, "no code found")


async def test_concurrent_redemptions_get_distinct_codes(api: Api) -> None:
    batch, client = await api.batch(*[f"C{number}" for number in range(200)])
    # Not all at once: on a busy machine the last ones would be answered 503.
    turns = asyncio.Semaphore(20)

    async def redeem() -> httpx.Response:
        async with turns:
            return await api.redeem(batch, client)

    answers = await asyncio.gather(*(redeem() for _ in range(300)))
    codes = [answer.json()["code"] for answer in answers if answer.status_code == 200]
    assert len(codes) == len(set(codes)) == 200
    assert sum(answer.status_code == 404 for answer in answers) == 100


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"1", b'{"batchid": "\xff"}', b"[" * 100_000, b"\x00", b"{}{}", b"NaN"],
)
async def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    response = await api.client.post(REDEEM, content=body[:60_000], headers=api.redeemer)
    assert problem(response, 400, "cannot parse json")["code"] == "unparsable_json"


WRONG: list[Any] = [None, 5, True, [], {}, "", "\u200b ", "te\u200bxt", ID[:9] + "\x00" + ID[9:], "x" * 129]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
async def test_ids_are_checked_in_order(api: Api, wrong: Any) -> None:
    async def error(**fields: Any) -> str:
        response = await api.client.post(REDEEM, json=fields, headers=api.redeemer)
        return str(problem(response, 400)["error"])

    assert await error(batchid=wrong, clientid=wrong, customerid=wrong) == "invalid batch_id format"
    assert await error(batchid=ID, clientid=wrong, customerid=wrong) == "invalid client_id format"
    assert await error(batchid=ID, clientid=ID, customerid=wrong) == "invalid customer_id format"
    assert await error() == "invalid batch_id format"
    assert await error(batchid=ID) == "invalid client_id format"
    assert await error(batchid=ID, clientid=ID) == "invalid customer_id format"


@pytest.mark.parametrize("text", ["text", ID[:-1], ID + "0", ID[:-1] + "g", ID[:-1] + "٣", f"{{{ID}", f"{ID} {ID}"])
async def test_a_batch_has_a_uuid(api: Api, text: str) -> None:
    response = await api.redeem(text, ID)
    assert problem(response, 400, "invalid batch_id format")["code"] == "invalid_batch_id"


async def test_ids_may_be_in_upper_case(api: Api) -> None:
    batch, client = await api.batch("A-1")
    assert (await api.redeem(str(batch).upper(), str(client).upper(), ID)).status_code == 200


async def test_unknown_fields_are_ignored(api: Api) -> None:
    batch, client = await api.batch("A-1")
    body = {"batchid": str(batch), "clientid": str(client), "customerid": ID, "more": [1]}
    assert (await api.client.post(REDEEM, json=body, headers=api.redeemer)).status_code == 200


async def test_refusals_of_the_batch(api: Api) -> None:
    problem(await api.redeem(uuid4(), uuid4()), 404, "no batch found")
    batch, client = await api.batch("A-1", "A-2")
    problem(await api.redeem(batch, uuid4()), 404, "no code found")

    async def change(**fields: Any) -> None:
        path = f"/api/v1/batches/{batch}"
        assert (await api.client.patch(path, json=fields, headers=api.admin)).status_code == 200

    await change(paused=True)
    problem(await api.redeem(batch, client), 409, "batch paused")
    await change(paused=False, starts_at="2999-01-01T00:00:00Z")
    problem(await api.redeem(batch, client), 403, "batch not started")
    await change(starts_at=None)
    assert (await api.redeem(batch, client)).json() == {"code": "A-1"}
    await change(expired=True)
    problem(await api.redeem(batch, client), 410, "batch expired")


async def test_a_batch_whose_rules_are_being_changed_answers_503(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2")
    assert (await api.redeem(batch, client, ID)).status_code == 200
    stores = api.services.stores
    change = BatchChanges(rules=parse_rules({"maxpercustomer": 1}))
    with pytest.raises(RedisUnavailableError):
        await change_batch(failing_after(stores, 1), batch, change, actor="test")
    response = await api.redeem(batch, client)
    assert problem(response, 503, "batch rules are being changed")["code"] == "batch_rebuilding"
    assert response.headers["retry-after"] == "1"

    await push_batch(stores, batch)
    problem(await api.redeem(batch, client, ID), 403, "rule conditions not met")
    assert (await api.redeem(batch, client)).json() == {"code": "A-2"}


async def test_a_reached_limit_names_the_time_of_the_next_redemption(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2", rules='{"maxpercustomer": 1, "timelimit": 2}')
    assert (await api.redeem(batch, client, ID)).status_code == 200
    response = await api.redeem(batch, client, ID)
    refusal = problem(response, 403, "rule conditions not met")
    assert refusal["code"] == "limit_reached"
    assert refusal["retry_at"].endswith("Z")
    assert refusal["retry_at"][-5] == "."
    left_s = (datetime.fromisoformat(refusal["retry_at"]) - datetime.now().astimezone()).total_seconds()
    assert 2 * 86_400 - 60 < left_s <= 2 * 86_400
    assert abs(int(response.headers["retry-after"]) - left_s) < 5


async def test_an_indefinite_limit_names_no_time(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2", rules='{"maxpercustomer": 1}')
    await api.redeem(batch, client, ID)
    response = await api.redeem(batch, client, ID)
    assert "retry_at" not in problem(response, 403, "rule conditions not met")
    assert "retry-after" not in response.headers


async def test_a_repeated_idempotency_key_returns_the_same_code(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2")
    first = await api.redeem(batch, client, ID, **{"Idempotency-Key": "order 17"})
    assert first.json() == {"code": "A-1"}
    assert "idempotency-replayed" not in first.headers
    again = await api.redeem(batch, client, ID, **{"idempotency-key": "order 17"})
    assert again.json() == {"code": "A-1"}
    assert again.headers["idempotency-replayed"] == "true"
    response = await api.redeem(batch, uuid4(), ID, **{"Idempotency-Key": "order 17"})
    assert problem(response, 422)["code"] == "idempotency_key_reused"
    assert (await api.redeem(batch, client, ID)).json() == {"code": "A-2"}


@pytest.mark.parametrize("key", ["", "a" * 256, "ä", "a\x01"])
async def test_invalid_idempotency_keys_are_refused(api: Api, key: str) -> None:
    batch, client = await api.batch("A-1")
    body = {"batchid": str(batch), "clientid": str(client), "customerid": ID}
    headers = [*api.redeemer.items(), ("Idempotency-Key", key.encode("latin-1"))]
    response = await api.client.post(REDEEM, json=body, headers=headers)  # type: ignore[arg-type]
    assert problem(response, 400)["code"] == "invalid_idempotency_key"
    for replayed in (None, "true"):
        response = await api.redeem(batch, client, ID, **{"Idempotency-Key": "a" * 255})
        assert response.json() == {"code": "A-1"}
        assert response.headers.get("idempotency-replayed") == replayed


async def test_two_idempotency_keys_are_refused(api: Api) -> None:
    headers = [*api.redeemer.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    body = {"batchid": ID, "clientid": ID, "customerid": ID}
    problem(await api.client.post(REDEEM, json=body, headers=headers), 400)


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Bearer isk_no", "Basic abc", "Token isk_no", "Bearer clé"]
)
async def test_a_missing_or_unknown_key_is_a_401_before_any_other_check(api: Api, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value.encode("latin-1")}
    response = await api.client.post(REDEEM, content=b"no json", headers=headers)  # type: ignore[arg-type]
    refusal = problem(response, 401, "missing or unknown api key")
    names_scheme = "another scheme: send Authorization: Bearer <API key>" in refusal["detail"]
    assert names_scheme is (value in ("Basic abc", "Token isk_no"))
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_an_admin_key_does_not_redeem(api: Api) -> None:
    response = await api.client.post(REDEEM, content=b"{}", headers=api.admin)
    refused = problem(response, 403)
    assert refused["code"] == "scope_missing"
    assert refused["detail"] == "it needs the scope redeem, and the key has admin"


async def test_the_scheme_of_the_key_may_be_in_any_case(api: Api) -> None:
    headers = {"Authorization": api.redeemer["Authorization"].replace("Bearer", "bEARER")}
    problem(await api.client.post(REDEEM, content=b"{}", headers=headers), 400)


async def test_to_a_bound_key_another_client_looks_like_one_without_codes(api: Api) -> None:
    batch, client = await api.batch("A-1")
    stranger = await api.key("redeem", client_id=uuid4())
    own = await api.key("redeem", client_id=client)

    async def answer(client_id: UUID, **headers: str) -> tuple[int, bytes]:
        response = await api.redeem(batch, client_id, ID, **headers)
        return response.status_code, response.content

    missing = await answer(uuid4())
    assert await answer(client, **stranger) == missing
    assert (await api.redeem(batch, client, ID, **own, **{"Idempotency-Key": "k"})).json() == {"code": "A-1"}
    assert await answer(client, **stranger, **{"Idempotency-Key": "k"}) == missing


async def test_to_a_bound_key_a_batch_without_its_codes_looks_unknown(api: Api) -> None:
    batch, client = await api.batch("A-1", "A-2", rules='{"maxpercustomer": 1}')
    mine = uuid4()
    bound = await api.key("redeem", client_id=mine)
    assert (await api.redeem(batch, client, ID, **{"Idempotency-Key": "k"})).json() == {"code": "A-1"}

    async def answer(batch_id: UUID, **headers: str) -> tuple[int, bytes]:
        response = await api.redeem(batch_id, mine, ID, **bound, **headers)
        return response.status_code, response.content

    unknown = await answer(uuid4())
    assert unknown[0] == 404
    assert await answer(batch) == unknown
    assert await answer(batch, **{"Idempotency-Key": "k"}) == unknown
    paused = await api.client.patch(f"/api/v1/batches/{batch}", json={"paused": True}, headers=api.admin)
    assert paused.status_code == 200
    assert await answer(batch) == unknown


async def test_a_large_body_is_a_413(api: Api) -> None:
    response = await api.client.post(REDEEM, content=b"x" * 70_000, headers=api.redeemer)
    assert problem(response, 413)["code"] == "body_too_large"

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 10_000

    problem(await api.client.post(REDEEM, content=pieces(), headers=api.redeemer), 413)


async def test_a_body_that_is_cut_off_is_neither_answered_nor_carried_out(api: Api) -> None:
    batch, client = await api.batch("A-1")
    body = f'{{"batchid": "{batch}", "clientid": "{client}", "customerid": "{ID}"}}'.encode()
    messages = [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", api.redeemer["Authorization"].encode())]
    scope = {
        "type": "http", "method": "POST", "path": REDEEM, "raw_path": REDEEM.encode(), "query_string": b"",
        "headers": headers, "client": None,
    }  # fmt: skip
    await api.app(scope, receive, send)
    assert (messages, sent) == ([], [])
    assert (await api.redeem(batch, client)).json() == {"code": "A-1"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_a_405(api: Api, method: str) -> None:
    response = await api.client.request(method, REDEEM)
    problem(response, 405, "method not allowed")
    assert response.headers["allow"] == "POST"


async def test_without_auth_no_key_is_needed(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"auth": Auth.OFF})) as open_api:
        batch, client = await open_api.batch("A-1")
        open_api.redeemer = {}
        assert (await open_api.redeem(batch, client)).json() == {"code": "A-1"}


@pytest.mark.own_app
async def test_outcomes_are_counted(api: Api) -> None:
    batch, client = await api.batch("A-1")
    await api.redeem(batch, client)
    await api.redeem(batch, client)
    await api.client.post(REDEEM, content=b"")
    text = (await api.get("/metrics")).text
    assert 'issuer_redemptions_total{outcome="granted"} 1.0' in text
    assert 'issuer_redemptions_total{outcome="sold_out"} 1.0' in text
    assert 'issuer_redemptions_total{outcome="invalid"} 1.0' in text
    assert "issuer_redeem_seconds_count 3.0" in text
    assert f'issuer_pool_stock{{batch="{batch}",client="{client}"}} 0.0' in text


def test_every_problem_has_a_title() -> None:
    assert all(title[0].isupper() for title in TITLES.values())
