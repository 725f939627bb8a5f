"""The screens of batches on the real application: create, add codes, change, and what a bound visitor sees."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from tests.support.api import Api
from tests.support.console import ConsoleScreen, console_screen, secret_of
from tests.support.operators import choose, created

pytestmark = pytest.mark.shared_app

BATCHES = "/batches"


async def send(screen: ConsoleScreen, path: str, file: str | None = None, **fields: str) -> None:
    """Send a form with a file, as a browser without scripts does."""
    files: Any = {"file": ("codes.csv", file, "text/csv") if file else ("", "", "application/octet-stream")}
    data = {"form_token": screen.token, "zone": "Europe/Berlin", "window": "0"} | fields
    screen.show(await screen.http.post(f"/console{path}", data=data, files=files))


async def registered(api: Api) -> tuple[str, UUID]:
    """A new client: its text and its id."""
    text = f"client-{uuid4()}"
    client = await api.client.post("/api/v1/clients", json={"id": text}, headers=api.admin)
    return text, UUID(client.json()["id"])


async def test_a_form_creates_a_batch_once_and_says_what_became_of_each_row(api: Api) -> None:
    client, _ = await registered(api)
    async with console_screen(api, api.admin) as screen:
        await screen.open(f"{BATCHES}/new")
        form_id = re.findall(r'name="id" value="([0-9a-f-]+)"', screen.html)[0]
        form = {"id": form_id, "name": f"Rows {form_id}", "source": "upload", "client": client, "limit": "2"}
        await send(screen, f"{BATCHES}/new", "code\n\n", **form)
        assert screen.status == 422
        assert "No row of this file can be loaded." in screen.text
        rows = f"code\nA-{form_id}\nB-{form_id}\nA-{form_id}\n"
        await send(screen, f"{BATCHES}/new", rows, **form)
        assert "2 of 3 codes loaded" in screen.text
        assert "4 The same code as line 2" in screen.text
        await send(screen, f"{BATCHES}/new", rows, **form)
        assert screen.path == f"{BATCHES}/{form_id}"
        assert f"Rows {form_id} was created before." in screen.text
        assert "Live 2 per customer." in screen.text
    query = "SELECT action, actor FROM audit_log WHERE subject = $1 ORDER BY id"
    trail = await api.owner.fetch(query, f"batch:{form_id}")
    key = api.services.keys.find(secret_of(api.admin))
    assert key is not None
    assert [(row["action"], row["actor"]) for row in trail] == [
        ("batch.create", key.actor), ("codes.load", key.actor),
    ]  # fmt: skip


async def test_codes_are_generated_and_a_batch_is_changed_paused_and_ended(api: Api) -> None:
    client, _ = await registered(api)
    async with console_screen(api, api.admin) as screen:
        await screen.open(f"{BATCHES}/new")
        form = {"name": f"Made {client}", "source": "generate", "count": "many", "pattern": "no place"}
        await send(screen, f"{BATCHES}/new", **form, limit="0", starts="2031-03-30T02:30", ends="soon")
        assert screen.status == 422
        for problem in (
            "Type a whole number from 1 to 10,000.", "The clocks skip this time: choose one an hour later.",
            "Type a date and a time.", "Type a whole number from 1 to 10,000,000.", "Say whose codes they are.",
        ):  # fmt: skip
            assert problem in screen.text
        times = {"starts": "2031-06-01T10:00", "ends": "2031-07-01T00:00"}
        await send(screen, f"{BATCHES}/new", **form | {"client": client, "count": "1 000", "pattern": ""}, **times)
        assert "1,000 codes generated." in screen.text
        assert "from Sun 1 Jun 2031, 08:00 UTC" in screen.text
        path = screen.path
        await screen.open(f"{path}/codes")
        await send(screen, f"{path}/codes", source="generate", count="5", client=client, pattern="MORE-######")
        assert "Codes 1,005" in screen.text
        await screen.open(f"{path}/edit")
        changed = {"name": "Changed", "limit": "3", "window": "45", "starts": "", "ends": "", "zone": "UTC"}
        await screen.send(f"{path}/edit", **changed)
        assert "Live 3 per customer in any 45 days." in screen.text
        await screen.send(f"{path}/state", state="pause")
        assert "Changed is paused." in screen.text
        await screen.send(f"{path}/state", state="end")
        assert "Ended" in screen.text
        assert "Add codes" not in screen.text
        batch = path.rpartition("/")[2]
        export = await screen.http.get(f"/console/exports/redemptions?batch_id={batch}")
        assert export.headers["content-disposition"].endswith('filename="redemptions.csv"')
        # The codes are in clear: the audit log keeps who had them, and never is it all of the installation at once.
        for query in ("", "?client=" + client):
            assert (await screen.http.get(f"/console/exports/redemptions{query}")).status_code == 404
    exported = "SELECT count(*) FROM audit_log WHERE action = 'redemptions.export' AND subject = $1"
    assert await api.owner.fetchval(exported, f"batch:{batch}") == 1
    viewer = await created(api, "viewer")
    async with console_screen(api) as screen:
        await choose(screen, viewer)
        await screen.open(f"{BATCHES}/{batch}")
        assert (screen.status, "exports" in screen.html) == (200, False)
        assert (await screen.http.get(f"/console/exports/redemptions?batch_id={batch}")).status_code == 403


async def test_generated_codes_are_those_of_the_client_of_the_batch_and_made_once(api: Api) -> None:
    (one, one_id), (two, two_id) = await registered(api), await registered(api)
    batch = (await api.client.post("/api/v1/batches", json={"name": one, "client": one}, headers=api.admin)).json()[
        "id"
    ]
    totals = "SELECT json_object_agg(client_id, total)::text FROM pools WHERE batch_id = $1"
    async with console_screen(api, api.admin) as screen:
        await screen.open(f"{BATCHES}/{batch}/codes")
        job = re.findall(r'name="job" value="([0-9a-f-]+)"', screen.html)[0]
        form = {"source": "generate", "pattern": "OF-######", "job": job}
        for _ in range(2):
            await send(screen, f"{BATCHES}/{batch}/codes", **form, count="5")
            assert screen.path == f"{BATCHES}/{batch}"
        assert orjson.loads(await api.owner.fetchval(totals, UUID(batch))) == {str(one_id): 5}
        await send(screen, f"{BATCHES}/{batch}/codes", **form, count="6")
        assert (screen.status, "was sent before" in screen.text) == (422, True)
        await send(screen, f"{BATCHES}/{batch}/codes", **form | {"job": str(uuid4())}, count="6", client=two)
        assert screen.path == f"{BATCHES}/{batch}"
        await send(screen, f"{BATCHES}/{batch}/codes", **form | {"job": str(uuid4())}, count="7")
        assert (screen.status, "several clients" in screen.text) == (422, True)
    assert orjson.loads(await api.owner.fetchval(totals, UUID(batch))) == {str(one_id): 5, str(two_id): 6}


async def test_a_bound_visitor_sees_and_changes_only_what_belongs_to_the_client(api: Api) -> None:
    (mine, client_id), (other, _) = await registered(api), await registered(api)
    key = await api.key("admin", client_id=client_id)
    foreign, _ = await api.batch(f"X-{uuid4()}", name=f"Foreign {uuid4()}")
    async with console_screen(api, key) as screen:
        await screen.open(f"{BATCHES}/new")
        assert 'name="client"' not in screen.html
        await send(screen, f"{BATCHES}/new", f"code\nM-{uuid4()}\n", name="Mine", source="upload", client=other)
        assert f"Client {mine}" in screen.text
        await screen.open(BATCHES)
        assert screen.text.count(" of 1") == 1
        assert "Foreign" not in screen.text
        for path in ("", "/edit", "/codes"):
            await screen.open(f"{BATCHES}/{foreign}{path}")
            assert screen.status == 404
        await screen.send(f"{BATCHES}/{foreign}/state", state="end")
        assert screen.status == 404
        await send(screen, f"{BATCHES}/{foreign}/codes", "code\nY\n", source="upload")
        assert screen.status == 404
        export = await screen.http.get(f"/console/exports/redemptions?batch_id={foreign}")
        assert export.status_code == 404
    async with console_screen(api) as stranger:
        await stranger.open(f"{BATCHES}/{foreign}")
        assert stranger.path == "/sign-in"


async def test_an_edit_changes_only_what_was_typed(api: Api) -> None:
    """A form shows minutes, and another person may have changed something since it was opened."""
    end = "2031-06-30T23:59:59.500Z"
    body = {"name": "Before", "ends_at": end, "rules": {"maxpercustomer": 2}}
    batch = (await api.client.post("/api/v1/batches", json=body, headers=api.admin)).json()["id"]
    campaign = {"name": "Before", "total": 1, "starts_at": end, "client_id": str(uuid4())}
    campaign_id = (await api.client.post("/api/v1/campaigns", json=campaign, headers=api.admin)).json()["id"]
    coupon = {"client_id": str(uuid4()), "code": f"E-{uuid4()}", "availability_count": 9, "expiry_date": end}
    coupon_id = (await api.client.post("/coupon/", json=coupon, headers=api.admin)).json()["id"]
    path = f"/api/v1/batches/{batch}"
    async with console_screen(api, api.admin) as screen:
        await screen.open(f"{BATCHES}/{batch}/edit")
        opened = screen.shown
        await api.client.patch(path, json={"rules": {"maxpercustomer": 1}}, headers=api.admin)
        await screen.send(f"{BATCHES}/{batch}/edit", **opened | {"name": "After"})
        assert "Saved." in screen.text
        found = (await api.get(path)).json()
        assert (found["name"], found["ends_at"], found["rules"]["maxpercustomer"]) == ("After", end, 1)
        await screen.send(f"{BATCHES}/{batch}/edit", **opened | {"zone": "Asia/Tokyo", "limit": "3"})
        found = (await api.get(path)).json()
        assert (found["ends_at"], found["rules"]["maxpercustomer"]) == ("2031-06-30T14:59:00.000Z", 3)
        # The batch of a campaign has no form of its own: its start is the campaign's.
        for page in ("", "/edit"):
            await screen.open(f"{BATCHES}/{campaign_id}{page}")
            assert screen.path == f"/campaigns/{campaign_id}"
        await screen.open(f"/campaigns/{campaign_id}/edit")
        await screen.send(f"/campaigns/{campaign_id}/edit", **screen.shown | {"name": "After"})
        found = (await api.get(f"/api/v1/campaigns/{campaign_id}")).json()
        assert (found["name"], found["starts_at"]) == ("After", end)
        await screen.open(f"/coupons/{coupon_id}/edit")
        await screen.send(f"/coupons/{coupon_id}/edit", **screen.shown | {"kind": "percent", "discount": "5"})
        assert "5 % off" in screen.text
        used = await api.client.get("/coupon/", params={"code": str(coupon["code"])}, headers=api.admin)
        assert used.json()["expiry_date"] == end
