"""Generate codes over HTTP, on the real application and real servers: in the request, as a job, refused, by tenants."""

from __future__ import annotations

import asyncio
import threading
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from issuer.generating import job_runner
from issuer.generating import request as request_module
from issuer.generating.code_format import CodeFormat
from issuer.generating.code_source import draw_checked
from issuer.generating.job_runner import work_on_jobs
from issuer.generating.jobs import MAX_OPEN_JOBS_OF_CLIENT
from issuer.http.admin.generation import MAX_CODES_PER_REQUEST
from issuer.pools.memory import RedisMemoryError
from issuer.settings import Auth, Settings
from tests.support.api import Api, problem, running_app
from tests.support.loading import A, B, check_agreement
from tests.support.servers import START_LIMIT_S

pytestmark = pytest.mark.shared_app

MANY = MAX_CODES_PER_REQUEST + 1


async def make_batch(api: Api) -> str:
    response = await api.client.post("/api/v1/batches", json={"name": "Summer"}, headers=api.admin)
    return str(response.json()["id"])


async def generate(api: Api, batch: object, key: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    path = f"/api/v1/batches/{batch}/codes/generate"
    return await api.client.post(path, json=body, headers=api.admin if key is None else key)


async def test_a_few_codes_are_generated_within_the_request(api: Api) -> None:
    batch = await make_batch(api)
    response = await generate(api, batch, count=50, client_id=str(A), pattern="SUMMER-####-####", check=True)
    assert response.status_code == 201
    job = response.json()
    assert (job["state"], job["count"], job["made"], job["client_id"]) == ("done", 50, 50, str(A))
    assert job["format"]["pattern"] == "SUMMER-####-####"
    assert response.headers["location"] == f"/api/v1/batches/{batch}/jobs/{job['id']}"
    assert (await api.get(response.headers["location"])).json() == job
    codes = [(await api.redeem(batch, A)).json()["code"] for _ in range(50)]
    assert len(set(codes)) == 50
    assert all(code.startswith("SUMMER-") and len(code) == 16 for code in codes)
    # The batch has one client now, so client_id is optional.
    assert (await generate(api, batch, count=1)).json()["client_id"] == str(A)
    entries = (await api.get("/api/v1/audit")).json()["items"]
    assert [entry["detail"]["count"] for entry in entries if entry["action"] == "codes.generate"] == [1, 50]


async def test_many_codes_are_generated_by_a_job_of_the_worker(api: Api) -> None:
    batch = await make_batch(api)
    response = await generate(api, batch, count=MANY, client_id=str(A))
    assert response.status_code == 202
    assert (response.json()["state"], response.json()["made"]) == ("waiting", 0)
    while await work_on_jobs(api.services.stores):
        pass
    job = (await api.get(response.headers["location"])).json()
    assert (job["state"], job["made"]) == ("done", MANY)
    assert (await check_agreement(api.services.stores, UUID(batch), A)).loaded == MANY


async def test_a_job_continues_after_a_failure_of_redis(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await make_batch(api)

    async def full(*_: object, **__: object) -> None:
        raise RedisMemoryError("full")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(job_runner, "load_pool_of_batch", full)
        response = await generate(api, batch, count=50, client_id=str(A))
    assert (response.status_code, response.json()["state"], response.json()["made"]) == (202, "running", 50)
    while await work_on_jobs(api.services.stores):
        pass
    assert (await api.get(response.headers["location"])).json()["state"] == "done"
    assert (await check_agreement(api.services.stores, UUID(batch), A)).loaded == 50


async def test_a_repeated_job_id_is_the_same_job(api: Api) -> None:
    batch, job_id = await make_batch(api), str(uuid4())
    answers = [await generate(api, batch, count=20, client_id=str(A), job_id=job_id) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.text for answer in answers}) == 1
    response = await generate(api, batch, count=21, client_id=str(A), job_id=job_id)
    assert problem(response, 409)["code"] == "job_id_reused"
    assert (await api.get(f"/api/v1/batches/{batch}")).json()["stock"][0]["total"] == 20


async def test_a_code_space_too_small_is_refused_with_the_length_needed(api: Api) -> None:
    batch = await make_batch(api)
    found = problem(await generate(api, batch, count=1_001, client_id=str(A), length=4, alphabet="numeric"), 400)
    assert (found["code"], found["length_needed"]) == ("code_space_too_small", 5)
    assert "a length of 5 would do" in found["error"]
    response = await generate(api, batch, count=1_000, client_id=str(A), length=5, alphabet="numeric")
    assert response.status_code == 201
    assert "one in 100 codes of this format exists" in response.json()["warning"]
    assert "a length of 9 is safe" in response.json()["warning"]


LETTER_PAIRS = ["".join(pair) for pair in product("23456789ABCDEFGHJKMNPQRSTVWXYZ", repeat=2)]
LONG_WORDS = [f"{number:04d}{'W' * 40}" for number in range(1_000)]


@pytest.mark.own_app
@pytest.mark.parametrize(
    ("words", "status"), [(LETTER_PAIRS[:880], 400), (LONG_WORDS[:1_000], 201)], ids=["refused", "accepted"]
)
async def test_other_requests_are_answered_while_unlucky_words_are_checked(
    api: Api, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int
) -> None:
    batch, answered, checking = await make_batch(api), threading.Event(), threading.Event()

    def check_slowly(code_format: CodeFormat) -> str:
        checking.set()
        # On the event loop this would wait in vain: the other request could not be answered.
        assert answered.wait(START_LIMIT_S)
        return draw_checked(code_format)

    monkeypatch.setattr(request_module, "draw_checked", check_slowly)
    body: dict[str, Any] = {"count": 5, "length": 255, "client_id": str(A), "unlucky_words": words}
    async with asyncio.TaskGroup() as group:
        checked = group.create_task(generate(api, batch, **body))
        assert await asyncio.to_thread(checking.wait, START_LIMIT_S)
        assert (await api.get(f"/api/v1/batches/{batch}")).status_code == 200
        answered.set()
    response = checked.result()
    assert response.status_code == status, response.text
    if status == 400:
        assert problem(response, 400)["code"] == "code_space_too_small"
        assert "no unlucky word" in response.text
        assert await api.services.stores.postgres.fetchval("SELECT count(*) FROM generation_jobs") == 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "count must be a whole number"),
        ({"count": 0}, "count must be 1 to 10,000,000"),
        ({"count": 10_000_001}, "count must be 1 to 10,000,000"),
        ({"count": True}, "count must be a whole number"),
        ({"count": 1.5}, "count must be a whole number"),
        ({"count": 5, "client_id": None}, "client_id is needed: the batch has no client yet"),
        ({"count": 5, "client_id": 7}, "client_id must be a string"),
        ({"count": 5, "job_id": "x"}, "invalid job_id format"),
        ({"count": 5, "lenght": 5}, "unknown field 'lenght'"),
        ({"count": 5, "length": "5"}, "length must be a whole number"),
        ({"count": 5, "pattern": "SUMMER"}, "pattern needs at least one #"),
        ({"count": 5, "alphabet": "aab"}, "alphabet contains 'a' more than once"),
        ({"count": 5, "alphabet": "abc", "check": True}, "check needs an alphabet with an even number"),
        ({"count": 5, "unlucky_words": ["x"]}, "unlucky_words each must have 2 to 64"),
    ],
)
async def test_invalid_requests_are_refused_and_generate_nothing(api: Api, body: dict[str, Any], error: str) -> None:
    batch = await make_batch(api)
    body = {"client_id": str(A), **body} if "client_id" not in body else body
    found = problem(await generate(api, batch, **{k: v for k, v in body.items() if v is not None}), 400)
    assert found["error"].startswith(error)
    assert (await api.get(f"/api/v1/batches/{batch}")).json()["stock"] == []


async def test_unknown_and_ended_batches_are_refused(api: Api) -> None:
    batch = await make_batch(api)
    problem(await generate(api, uuid4(), count=5, client_id=str(A)), 404, "no batch found")
    problem(await generate(api, "x", count=5, client_id=str(A)), 400, "invalid batch_id format")
    await api.client.patch(f"/api/v1/batches/{batch}", json={"expired": True}, headers=api.admin)
    problem(await generate(api, batch, count=5, client_id=str(A)), 410, "batch expired")
    assert problem(await api.get(f"/api/v1/batches/{batch}/jobs/{uuid4()}"), 404, "no job found")
    problem(await api.get(f"/api/v1/batches/{batch}/jobs/x"), 400, "invalid job_id format")


async def test_a_bound_key_generates_codes_of_its_own_client_only(api: Api) -> None:
    bound = await api.key("admin", client_id=A)
    shared = await make_batch(api)
    problem(await generate(api, shared, bound, count=5), 404, "no batch found")
    foreign = (await generate(api, shared, count=5, client_id=str(B))).json()
    problem(await generate(api, shared, bound, count=5), 404, "no batch found")
    problem(await api.get(f"/api/v1/batches/{shared}/jobs/{foreign['id']}", bound), 404, "no job found")
    mine = (await api.client.post("/api/v1/batches", json={"name": "Mine"}, headers=bound)).json()["id"]
    problem(await generate(api, mine, bound, count=5, client_id=str(B)), 403, "the api key is bound to one client")
    response = await generate(api, mine, bound, count=5)
    assert (response.status_code, response.json()["client_id"]) == (201, str(A))
    assert (await api.get(response.headers["location"], bound)).status_code == 200
    # In a batch with codes of other clients the key has its own pool and sees only its own job.
    await generate(api, shared, count=5, client_id=str(A))
    assert (await generate(api, shared, bound, count=3)).status_code == 201
    stock = (await api.get(f"/api/v1/batches/{shared}")).json()["stock"]
    assert {pool["client_id"]: pool["total"] for pool in stock} == {str(A): 8, str(B): 5}
    problem(await api.get(f"/api/v1/batches/{shared}/jobs/{foreign['id']}", bound), 404, "no job found")


async def test_the_number_of_waiting_jobs_is_bounded(api: Api) -> None:
    batch = await make_batch(api)
    answers = await asyncio.gather(
        *(generate(api, batch, count=MANY, client_id=str(A)) for _ in range(MAX_OPEN_JOBS_OF_CLIENT + 3))
    )
    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(refused) == 3
    assert all(problem(answer, 429)["code"] == "too_many_jobs" for answer in refused)
    assert refused[0].headers["retry-after"] == "10"
    assert (await generate(api, batch, count=5, client_id=str(B))).status_code == 201


@pytest.mark.long
async def test_concurrent_small_requests_are_all_carried_out(api: Api) -> None:
    batch = await make_batch(api)
    clients = [str(uuid4()) for _ in range(12)]
    answers = await asyncio.gather(*(generate(api, batch, count=30, client_id=client) for client in clients))
    assert {answer.status_code for answer in answers} <= {201, 202}
    while await work_on_jobs(api.services.stores):
        pass
    stock = (await api.get(f"/api/v1/batches/{batch}")).json()["stock"]
    assert [pool["total"] for pool in stock] == [30] * 12


async def test_generation_without_auth(settings: Settings) -> None:
    async with running_app(settings.model_copy(update={"auth": Auth.OFF})) as api:
        api.admin = {}
        batch = await make_batch(api)
        assert (await generate(api, batch, count=5, client_id=str(A))).status_code == 201
