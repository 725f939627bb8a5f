"""Batches with an id of the caller's choice, batches and clients by name, and the default client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from issuer.settings import Settings
from tests.support.api import REDEEM, UPLOAD, Api, problem, running_app

pytestmark = pytest.mark.shared_app

BATCHES = "/api/v1/batches"
REPORT = "/api/v1/reports/batches"


async def create(api: Api, key: Any = None, **values: object) -> httpx.Response:
    return await api.client.post(BATCHES, json=values, headers=key or api.admin)


async def upload(api: Api, text: str, key: Any = None, **fields: str) -> httpx.Response:
    files = {"file": ("codes.csv", text.encode())}
    return await api.client.post(UPLOAD, files=files, data=fields, headers=key or api.admin)


async def test_a_batch_keeps_the_id_that_its_creator_chose(api: Api) -> None:
    chosen, client = str(uuid4()), uuid4()
    assert (await create(api, id=chosen, name="Summer")).json()["id"] == chosen
    bound = await api.key("admin", client_id=client)
    for key in (api.admin, bound):
        taken = problem(await create(api, key, id=chosen, name="Mine"), 409, "the id is taken")
        assert taken["code"] == "id_taken"
    coupon = {"code": "SAVE", "availability_count": 1, "client_id": str(client)}
    assert (await api.client.post("/coupon/", json=coupon, headers=api.admin)).status_code == 201
    of_coupon = await api.owner.fetchval("SELECT batch_id FROM coupons")
    assert problem(await create(api, id=str(of_coupon), name="Mine"), 409)["code"] == "id_taken"
    assert await api.owner.fetchval("SELECT count(*) FROM batches WHERE name = 'Mine'") == 0

    # Codes are added to a batch that its uploader sees, and create one where the id is free and there is a name.
    report = (await upload(api, f"client_id,code\n{client},A1\n", batch_id=chosen)).json()
    assert (report["batch_id"], report["loaded"]) == (chosen, 1)
    report = (await upload(api, "code\nA2\n", bound, batch="Summer", batch_name="Summer")).json()
    assert (report["batch_id"], report["loaded"]) == (chosen, 1)
    for fields in ({"batch_name": "Winter"}, {"rules": '{"maxpercustomer": 1}'}, {"batch": "Winter"}):
        problem(await upload(api, "code\nA3\n", bound, batch_id=chosen, **fields), 400)
    other = await api.key("admin", client_id=uuid4())
    problem(await upload(api, "code\nB1\n", other, batch_id=chosen), 404, "no batch found")
    assert problem(await upload(api, "code\nB1\n", other, batch_id=chosen, batch_name="B"), 409)["code"] == "id_taken"
    problem(await upload(api, "code\nB1\n", other, batch_id=str(uuid4())), 404, "no batch found")
    new = str(uuid4())
    for loaded in (1, 0):
        report = (await upload(api, "code\nB1\n", other, batch_id=new, batch_name="B")).json()
        assert (report["batch_id"], report["loaded"]) == (new, loaded)

    # Where others have codes, a key of one client learns none of them: a batch has a code once.
    assert (await upload(api, f"client_id,code\n{uuid4()},SECRET\n", batch_id=chosen)).json()["loaded"] == 1
    assert problem(await upload(api, "code\nSECRET\nA4\n", bound, batch_id=chosen), 403)["code"] == "batch_shared"


@pytest.mark.own_app
async def test_a_name_is_that_of_one_open_batch_of_the_client(api: Api) -> None:
    client = uuid4()
    assert (await api.client.post("/api/v1/clients", json={"id": "band-42"}, headers=api.admin)).status_code == 201
    first = (await create(api, name="Summer", client="band-42")).json()["id"]
    second = (await create(api, name="Summer", client_id=str(client))).json()["id"]
    campaign = {"name": "Summer", "total": 1, "starts_at": "2020-01-01T00:00:00Z"}
    await api.client.post("/api/v1/campaigns", json=campaign, headers=api.admin)

    async def named(key: Any = None, **query: str) -> list[str]:
        response = await api.client.get(REPORT, params={"format": "ndjson", **query}, headers=key or api.admin)
        assert response.status_code == 200, response.text
        return [line.partition('"id":"')[2][:36] for line in response.text.splitlines()[:-1]]

    for query in ({"batch": "Summer"}, {"batch": "Summer", "client": "band-42"}):
        found = problem(await api.client.get(REPORT, params=query, headers=api.admin), 409)
        assert (found["code"], set(found["batch_ids"])) == ("ambiguous_name", {first, second})
    assert await named(await api.key("admin", client_id=client), batch="Summer") == [second]
    assert await named(batch=first.upper()) == await named(batch_id=first, batch="Summer") == [first]
    assert await named(client="band-42") == await named(client_id="band-42") == [first]
    for query in ({"batch": second, "batch_id": first}, {"client": "band-42", "client_id": str(client)}):
        problem(await api.client.get(REPORT, params=query, headers=api.admin), 400)
    for unknown in ("Winter", "sum\0mer"):
        problem(await api.client.get(REPORT, params={"batch": unknown}, headers=api.admin), 404, "no batch found")
    found = problem(await api.client.get(REPORT, params={"client": "band-43"}, headers=api.admin), 404)
    assert found["error"] == "unknown client 'band-43': issuer clients create band-43"

    # A batch that has ended gives its name up to an open one.
    await api.client.patch(f"{BATCHES}/{second}", json={"expired": True}, headers=api.admin)
    assert await named(batch="Summer") == [first]
    await api.client.patch(f"{BATCHES}/{first}", json={"name": "Spring"}, headers=api.admin)
    assert await named(batch="Summer") == [second]


@pytest.mark.parametrize("form", ["{id}", "{{{id}}}", "urn:uuid:{id}", "{hex}"])
async def test_nothing_gets_a_name_that_looks_like_an_id(api: Api, form: str) -> None:
    chosen = uuid4()
    name = form.format(id=chosen, hex=chosen.hex)
    campaign = {"name": name, "total": 1, "starts_at": "2020-01-01T00:00:00Z"}
    coupon = {"code": name, "availability_count": 1, "client_id": str(uuid4())}
    batch, _ = await api.batch("A1")
    for answer in (
        await create(api, name=name),
        await upload(api, f"client_id,code\n{uuid4()},A\n", batch_name=name),
        await api.client.post("/api/v1/campaigns", json=campaign, headers=api.admin),
        await api.client.post("/coupon/", json=coupon, headers=api.admin),
        await api.client.patch(f"{BATCHES}/{batch}", json={"name": name}, headers=api.admin),
    ):
        assert "form of a UUID" in problem(answer, 400)["error"]


@asynccontextmanager
async def with_default(settings: Settings, client: str) -> AsyncIterator[Api]:
    async with running_app(settings.model_copy(update={"default_client": client})) as api:
        yield api


async def test_the_default_client_is_that_of_whatever_names_none(settings: Settings) -> None:
    other = uuid4()
    async with with_default(settings, "band-42") as api:
        found = problem(await upload(api, "code\nA1\n", batch_name="Summer"), 404)
        assert found["error"].startswith("ISSUER_DEFAULT_CLIENT: unknown client 'band-42'")
        await api.client.post("/api/v1/clients", json={"id": "band-42"}, headers=api.admin)
        default = str(api.services.stores.identity("band-42").uuid)

        report = (await upload(api, f"client_id,code\n,A1\n{other},A2\n", batch_name="Summer")).json()
        assert (report["loaded"], report["rejected"]) == (2, 0)
        given = {"client_id": default, "client_name": "band-42", "count": 1}
        assert (report["default_client"], report["clients"]) == (
            given,
            [given, {"client_id": str(other), "client_name": None, "count": 1}],
        )
        assert (await upload(api, "code\nA3\n", batch_name="Autumn")).json()["default_client"] == given
        again = (await upload(api, f"client_id,code\n{other},A1\n", batch_id=report["batch_id"])).json()
        assert (again["message"], again["owners_in_batch"]) == (
            "Nothing new: all codes are in the batch already",
            [given],
        )
        shown = (await api.get(f"{BATCHES}/{report['batch_id']}")).json()
        assert {stock["client_id"] for stock in shown["stock"]} == {default, str(other)}
        empty = (await create(api, name="Empty")).json()["id"]
        path = f"{BATCHES}/{empty}/codes/generate"
        assert (await api.client.post(path, json={"count": 1}, headers=api.admin)).json()["client_id"] == default
        coupon = {"code": "SAVE", "availability_count": 1}
        assert (await api.client.post("/coupon/", json=coupon, headers=api.admin)).json()["client_id"] == default
        campaign = {"name": "Drop", "total": 1, "starts_at": "2020-01-01T00:00:00Z"}
        created = (await api.client.post("/api/v1/campaigns", json=campaign, headers=api.admin)).json()
        assert created["client_id"] == default
        assert (created["client_name"], shown["stock"][0]["client_name"]) == ("band-42", "band-42")
        redemption = {"batchid": report["batch_id"], "customerid": "anna"}
        for key, code in ((api.redeemer, "A1"), (await api.key("redeem", client_id=other), "A2")):
            assert (await api.client.post(REDEEM, json=redemption, headers=key)).json() == {"code": code}
        # A bound key has its own client, whatever the default is.
        bound = await api.key("admin", client_id=other)
        mine = (await api.client.post("/api/v1/campaigns", json=campaign, headers=bound)).json()
        assert UUID(mine["client_id"]) == other
        foreign = {**campaign, "client": "band-42"}
        assert (
            problem(await api.client.post("/api/v1/campaigns", json=foreign, headers=bound), 403)["code"] == "bound_key"
        )
