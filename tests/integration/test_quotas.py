"""Quotas of clients: over HTTP, for every way in which codes are added, and in the console."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.support.api import UPLOAD, Api, problem
from tests.support.console import console_screen
from tests.support.coupon_service import PAST

pytestmark = pytest.mark.shared_app


async def limited(api: Api, **quotas: int | None) -> str:
    """A new client with these quotas: its text."""
    text = f"limited-{uuid4()}"
    await api.client.post("/api/v1/clients", json={"id": text}, headers=api.admin)
    changed = await api.client.patch(f"/api/v1/clients/{text}/quotas", json=quotas, headers=api.admin)
    assert changed.status_code == 200, changed.text
    return text


async def upload(api: Api, client: str, count: int) -> Any:
    codes = "code\n" + "".join(f"Q-{uuid4()}\n" for _ in range(count))
    data = {"batch_name": f"Batch {uuid4()}", "client": client}
    return await api.client.post(UPLOAD, files={"file": ("c.csv", codes)}, data=data, headers=api.admin)


async def test_every_way_of_adding_codes_keeps_to_the_quota(api: Api) -> None:
    client = await limited(api, codes=10)
    path = f"/api/v1/clients/{client}/quotas"
    first = (await upload(api, client, 6)).json()
    refused = problem(await upload(api, client, 5), 403)
    assert [refused[name] for name in ("code", "quota", "limit", "used")] == ["quota_exceeded", "codes", 10, 11]
    generate = f"/api/v1/batches/{first['batch_id']}/codes/generate"
    assert problem(await api.client.post(generate, json={"count": 5}, headers=api.admin), 403)["used"] == 11
    campaign = {"name": "Night", "total": 5, "starts_at": PAST, "client": client}
    made = await api.client.post("/api/v1/campaigns", json=campaign, headers=api.admin)
    assert problem(made, 403)["code"] == "quota_exceeded"
    use = {"codes": {"limit": 10, "used": 6}, "batches": {"limit": None, "used": 1}}
    assert (await api.get(path)).json() == use
    assert (await api.client.post(generate, json={"count": 4}, headers=api.admin)).status_code == 201
    await api.client.patch(f"/api/v1/batches/{first['batch_id']}", json={"expired": True}, headers=api.admin)
    # What has ended does not count any more, and is not opened again beyond the quota.
    second = f"/api/v1/batches/{(await upload(api, client, 10)).json()['batch_id']}"
    assert (await api.client.patch(second, json={"ends_at": PAST}, headers=api.admin)).status_code == 200
    assert (await upload(api, client, 10)).status_code == 200
    again = problem(await api.client.patch(second, json={"ends_at": None}, headers=api.admin), 403)
    assert (again["code"], again["used"]) == ("quota_exceeded", 20)
    assert (await api.get(second)).json()["expired"] is True
    for wrong in ({"codes": -1}, {"codes": True}, {"codes": "5"}, {"requests": 1}):
        problem(await api.client.patch(path, json=wrong, headers=api.admin), 400)
    await api.client.patch(path, json={"codes": None}, headers=api.admin)
    assert (await upload(api, client, 11)).status_code == 200


async def test_two_loads_at_once_do_not_exceed_a_quota_together(api: Api) -> None:
    client = await limited(api, codes=10, batches=2)
    answers = await asyncio.gather(*(upload(api, client, 6) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]
    assert (await upload(api, client, 1)).status_code == 200
    body = {"name": "Third", "client": client}
    third = problem(await api.client.post("/api/v1/batches", json=body, headers=api.admin), 403)
    assert (third["quota"], third["limit"], third["used"]) == ("batches", 2, 3)


async def test_two_changes_at_once_of_two_quotas_both_count(api: Api) -> None:
    client = await limited(api)
    for number in range(1, 6):
        await asyncio.gather(
            *(
                api.client.patch(f"/api/v1/clients/{client}/quotas", json={quota: number}, headers=api.admin)
                for quota in ("codes", "batches")
            )
        )
        quotas = (await api.get(f"/api/v1/clients/{client}/quotas")).json()
        assert [quotas[quota]["limit"] for quota in ("codes", "batches")] == [number, number]


async def test_the_console_registers_a_client_changes_its_quotas_and_says_what_exceeds_them(api: Api) -> None:
    text = f"shop-{uuid4()}"
    async with console_screen(api, api.admin) as screen:
        await screen.open("/clients/new")
        await screen.send("/clients/new", id="", name="")
        assert screen.status == 422
        await screen.send("/clients/new", id=text, name="A <shop>")
        assert "A <shop> is registered." in screen.text
        path = screen.path
        await screen.send(path, name="A shop", codes="1,000", batches="x")
        assert "Type a whole number from 0 to" in screen.text
        await screen.send(path, name="A shop", codes="1,000", batches="")
        assert "Codes 0 of 1,000" in screen.text
        assert "Batches 0 no limit" in screen.text
        await screen.open("/batches/new")
        fields = {"form_token": screen.token, "name": f"B {text}", "source": "generate", "count": "1001", "zone": "UTC"}
        files: Any = {"file": ("", "", "application/octet-stream")}
        form = {**fields, "client": text, "window": "0"}
        screen.show(await screen.http.post("/console/batches/new", data=form, files=files))
        assert "the quota of the client is 1,000 codes, and with this there would be 1,001" in screen.text.lower()
    trail = await api.owner.fetch("SELECT action FROM audit_log WHERE detail::text LIKE $1", "%1000%")
    assert "client.quotas" in {row["action"] for row in trail}
