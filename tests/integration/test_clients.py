"""Registered clients: over HTTP, and in files that name them by a text."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.api import UPLOAD, Api, problem

pytestmark = pytest.mark.shared_app

CLIENTS = "/api/v1/clients"


async def register(api: Api, key: Any = None, **values: str) -> httpx.Response:
    return await api.client.post(CLIENTS, json=values, headers=key or api.admin)


async def upload(api: Api, text: str, **fields: str) -> dict[str, Any]:
    files = {"file": ("codes.csv", text.encode())}
    response = await api.client.post(UPLOAD, files=files, data={"batch_name": "Summer", **fields}, headers=api.admin)
    assert response.status_code == 200, response.text
    report: dict[str, Any] = response.json()
    return report


async def acts(api: Api) -> list[tuple[str, str]]:
    return [(row["action"], row["subject"]) for row in await api.owner.fetch("SELECT * FROM audit_log ORDER BY id")]


async def test_a_client_is_registered_once_listed_and_renamed(api: Api) -> None:
    key = {**api.admin, "Idempotency-Key": "one"}
    response = await register(api, key, id="  band-42 ", name="Band 42")
    assert response.status_code == 201
    band = response.json()
    assert band["id"] == str(api.services.stores.identity("band-42").uuid)
    assert (band["text"], band["name"]) == ("band-42", "Band 42")
    assert (await api.get(response.headers["location"])).json() == band
    assert (await register(api, key, id="  band-42 ", name="Band 42")).headers["idempotency-replayed"] == "true"
    taken = problem(await register(api, id="band-42"), 409)
    assert (taken["code"], taken["error"]) == ("id_taken", f"the client {band['id']} is registered already")

    shop = str(uuid4())
    assert problem(await register(api, id=shop), 400, "name is needed for a client that has only a UUID")
    for name in (str(uuid4()), f"{{{uuid4()}}}", uuid4().hex):
        assert "form of a UUID" in problem(await register(api, id=shop, name=name), 400)["error"]
    other = (await register(api, id=shop, name="Shop")).json()
    assert (other["id"], other["text"]) == (shop, None)
    assert problem(await register(api, id="a\u202eb"), 400)["code"] == "invalid_id"
    (first,) = (await api.get(f"{CLIENTS}?limit=1")).json()["items"]
    assert first == band

    path = f"{CLIENTS}/{band['id']}"
    assert (await api.get(f"{CLIENTS}/band-42")).json() == band
    changed = (await api.client.patch(path, json={"name": "The Band"}, headers=api.admin)).json()
    assert changed == {**band, "name": "The Band"}
    assert problem(await api.get(f"{CLIENTS}/{uuid4()}"), 404)["code"] == "client_not_found"
    subject = f"client:{band['id']}"
    created = [("client.create", subject), ("client.create", f"client:{shop}"), ("client.change", subject)]
    assert [act for act in await acts(api) if act[0].startswith("client")] == created

    bound = await api.key("admin", client_id=api.services.stores.identity("band-42").uuid)
    assert (await api.get(CLIENTS, bound)).json() == {"items": [changed], "next_cursor": None}
    assert problem(await api.get(f"{CLIENTS}/{shop}", bound), 404)["code"] == "client_not_found"
    assert problem(await register(api, bound, id="mine"), 403)["code"] == "bound_key"


@pytest.mark.own_app
async def test_rows_of_unknown_clients_are_rejected_unless_they_are_to_be_created(api: Api) -> None:
    await register(api, id="band-42")
    shop = uuid4()
    text = f"client_id,code\nband-42,A1\nband 43,A2\n{shop},A3\nband 43,A4\nband-44,\n"
    report = await upload(api, text)
    assert (report["loaded"], report["rejected"], report["created_clients"]) == (2, 3, [])
    assert report["rejections"][0] == {
        "line": 3,
        "reason": "unknown client 'band 43': issuer clients create 'band 43', or the upload field create_clients=true",
    }
    assert [row["line"] for row in report["rejections"]] == [3, 5, 6]
    # Nothing is kept of a client that was refused.
    refused = api.services.stores.identity("band 43").uuid
    assert not await api.owner.fetchval("SELECT count(*) FROM client_locks WHERE client_id = $1", refused)

    report = await upload(api, text, create_clients="true")
    assert (report["loaded"], report["rejected"], report["created_clients"]) == (2, 1, ["band 43"])
    listed = (await api.get(CLIENTS)).json()["items"]
    assert [(client["text"], client["name"]) for client in listed] == [("band-42", "band-42"), ("band 43", "band 43")]
    assert ("client.create", f"client:{refused}") in await acts(api)
    answer = await api.redeem(report["batch_id"], refused)
    assert answer.json() == {"code": "A2"}

    # Two files that create the same clients, in another order, wait for each other and do not stop each other.
    names = [f"new-{number}" for number in range(20)]
    files = [
        "client_id,code\n" + "".join(f"{name},{mark}{name}\n" for name in order)
        for mark, order in (("X", names), ("Y", names[::-1]))
    ]
    reports = await asyncio.gather(*(upload(api, file, create_clients="true") for file in files))
    assert sorted(len(report["created_clients"]) for report in reports) == [0, 20]
    assert [report["loaded"] for report in reports] == [20, 20]
    assert len((await api.get(CLIENTS)).json()["items"]) == 22
