"""The screens of campaigns and coupons on the real application: create, change, and what a bound visitor sees."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from tests.support.api import Api
from tests.support.console import console_screen
from tests.support.coupon_service import call

pytestmark = pytest.mark.shared_app

START = {"starts": "2026-01-01T00:00", "zone": "Europe/Berlin"}


async def test_a_campaign_is_created_extended_paused_and_ended(api: Api) -> None:
    async with console_screen(api, api.admin) as screen:
        await screen.open("/campaigns/new")
        wrong = {"name": " ", "total": "5.5", "starts": "", "zone": "UTC", "pattern": "", "client": ""}
        await screen.send("/campaigns/new", **wrong)
        assert screen.status == 422
        for problem in ("Give it a name.", "Type a whole number from 1 to 5,000,000.", "A campaign needs a start"):
            assert problem in screen.text
        form = {"name": "Night <market>", "total": "20", "public": "true", "client": f"club-{uuid4()}"}
        await screen.send("/campaigns/new", **START, **form, pattern="X-#")
        assert "Register club-" in screen.text
        await screen.send("/campaigns/new", **START, **form, pattern="X-#", new_client="true")
        assert (screen.status, 'id="pattern-error"' in screen.html) == (422, True)
        assert "code_format" not in screen.text
        form |= {"form_id": screen.form_id, "pattern": "NIGHT-########"}
        await screen.send("/campaigns/new", **START, **form)
        path = screen.path
        # Sent twice, a form is carried out once.
        await screen.send("/campaigns/new", **START, **form)
        assert screen.path == path
        assert "Night <market> is created with all its codes." in screen.text
        assert "Live First come, first served, from Wed 31 Dec 2025, 23:00 UTC" in screen.text
        issued = (await call(api, "IssueCoupon", api.redeemer, campaignId=path.rpartition("/")[2])).json()["code"]
        await screen.open(path)
        assert (issued in screen.html, f"••••{issued[-4:]}" in screen.text) == (False, True)
        await screen.send(f"{path}/edit", **START, name="Night market", total="30", public="")
        assert "Codes 30" in screen.text
        assert "only holders of an API key" in screen.text
        await screen.send(f"{path}/edit", **START, name="Night market", total="3")
        assert (screen.status, 'id="total-error">There are 30 codes already' in screen.html) == (422, True)
        await screen.send(f"{path}/state", state="pause")
        assert "Night market is paused." in screen.text
        await screen.send(f"{path}/state", state="end")
        assert "Ended" in screen.text
        assert "Edit" not in screen.text


async def test_a_coupon_is_created_changed_and_deleted(api: Api) -> None:
    client = f"shop-{uuid4()}"
    await api.client.post("/api/v1/clients", json={"id": client}, headers=api.admin)
    async with console_screen(api, api.admin) as screen:
        await screen.open("/coupons/new")
        form = {
            "client": client,
            "code": "summer10",
            "kind": "percent",
            "currency": "EUR",
            "window": "7",
            "zone": "UTC",
        }
        await screen.send("/coupons/new", **form, discount="110", uses="50", limit="1")
        assert screen.status == 422
        assert "The percentage must be a percentage, at most 100." in screen.text
        form |= {"discount": "10", "uses": "50", "limit": "1", "ends": "2031-06-01T00:00", "form_id": screen.form_id}
        await screen.send("/coupons/new", **form)
        await screen.send("/coupons/new", **form)
        assert "Live 10 % off until Sun 1 Jun 2031, 00:00 UTC" in screen.text
        assert "Limit 1 per customer in any 7 days" in screen.text
        path = screen.path
        await screen.send(
            f"{path}/edit", kind="amount", discount="2.50", currency="eur", uses="5", window="0", zone="UTC"
        )
        assert "2.50 EUR off" in screen.text
        assert "Uses 5" in screen.text
        await screen.send(f"{path}/state", state="pause")
        await screen.send(f"{path}/state", state="unknown")
        assert "Paused" in screen.text
        await screen.send(f"{path}/state", state="delete")
        assert "summer10 is deleted." in screen.text


async def test_a_bound_visitor_sees_neither_campaigns_nor_coupons_of_others(api: Api) -> None:
    client = f"mine-{uuid4()}"
    mine = await api.client.post("/api/v1/clients", json={"id": client}, headers=api.admin)
    key = await api.key("admin", client_id=UUID(mine.json()["id"]))
    body = {"name": "Foreign", "total": 1, "starts_at": "2026-01-01T00:00:00Z", "client": str(uuid4())}
    campaign = (await api.client.post("/api/v1/campaigns", json=body, headers=api.admin)).json()["id"]
    terms = {"client_id": str(uuid4()), "code": f"F-{uuid4()}", "availability_count": 1}
    coupon = (await api.client.post("/coupon/", json=terms, headers=api.admin)).json()["id"]
    async with console_screen(api, key) as screen:
        for path in (f"/campaigns/{campaign}", f"/coupons/{coupon}"):
            for page in (path, f"{path}/edit"):
                await screen.open(page)
                assert screen.status == 404, page
            await screen.send(f"{path}/state", state="pause")
            assert screen.status == 404
        await screen.open("/coupons")
        assert "No coupons yet" in screen.text
        await screen.open("/campaigns")
        assert "No campaigns yet" in screen.text
        await screen.open("/campaigns/new")
        await screen.send("/campaigns/new", **START, name="Mine", total="2", client=str(uuid4()), pattern="")
        assert f"Client {client}" in screen.text
