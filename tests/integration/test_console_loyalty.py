"""The screens of loyalty on the real application: figures, members, cards, and what a bound visitor sees."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from tests.support.api import Api
from tests.support.console import console_screen

pytestmark = pytest.mark.shared_app

PROGRAMS = "/api/v1/loyalty/programs"


async def created(api: Api, unit: str) -> tuple[str, UUID]:
    """A program of a client of its own, with a member and 345 points: the program's id and the client."""
    client = uuid4()
    terms = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}} if unit == "points" else {}
    body = {"name": f"Café {client}", "client": str(client), "unit": unit, "terms": terms}
    program = (await api.client.post(PROGRAMS, json=body, headers=api.admin)).json()["id"]
    if unit == "points":
        members = f"{PROGRAMS}/{program}/members"
        person = {"name": "Anna Lee", "ref": "anna-1"}
        member = (await api.client.post(members, json=person, headers=api.admin)).json()["id"]
        order = {"amount": "345.00", "currency": "EUR", "source": "till", "order_id": "A-1"}
        earned = await api.client.post(f"{members}/{member}/earn", json=order, headers=api.redeemer)
        assert earned.status_code == 201, earned.text
    return str(program), client


async def test_a_shop_owner_sees_figures_and_members_of_the_own_program_only(api: Api) -> None:
    (mine, client), (other, _) = await created(api, "points"), await created(api, "points")
    async with console_screen(api, await api.key("admin", client_id=client)) as screen:
        await screen.open("/loyalty")
        assert mine in screen.html
        assert other not in screen.html
        await screen.open(f"/loyalty/{mine}")
        assert "Earned 345" in screen.text
        assert "Outstanding 345" in screen.text
        await screen.open(f"/loyalty/{mine}/members?q=anna")
        assert "Anna Lee" in screen.text
        await screen.open(f"/loyalty/{mine}/members?q=zoe")
        assert "No member was found" in screen.text
        await screen.open(f"/loyalty/{mine}/members/anna-1")
        assert "till A-1" in screen.text
        await screen.open(f"/loyalty/{mine}/inbox")
        assert "Nothing has arrived" in screen.text
        for path in ("", "/members", "/members/anna-1", "/cards", "/inbox", f"/cards.pdf?run_id={uuid4()}"):
            await screen.open(f"/loyalty/{other}{path}")
            assert screen.status == 404, path
        await screen.send(f"/loyalty/{other}/cards", count="1")
        assert screen.status == 404


async def test_cards_are_issued_and_printed(api: Api) -> None:
    (points, _), (money, _) = await created(api, "points"), await created(api, "EUR")
    async with console_screen(api, api.admin) as screen:
        await screen.open(f"/loyalty/{points}/cards")
        await screen.send(f"/loyalty/{points}/cards", count="0")
        assert "Type a whole number from 1" in screen.text
        await screen.send(f"/loyalty/{points}/cards", count="3")
        assert "3 cards issued." in screen.text
        run = screen.html.partition("cards.pdf?run_id=")[2][:36]
        sheets = await screen.http.get(f"/console/loyalty/{points}/cards.pdf?run_id={run}")
        assert sheets.content.startswith(b"%PDF")
        await screen.open(f"/loyalty/{money}/cards")
        await screen.send(f"/loyalty/{money}/cards", count="2", amount="2.505")
        assert screen.status == 422
        form = {"count": "2", "amount": "25.00", "form_id": screen.form_id}
        # Sent twice, also at once, a form is carried out once.
        data = form | {"form_token": screen.token}
        clicks = [screen.http.post(f"/console/loyalty/{money}/cards", data=data) for _ in range(4)]
        assert len({(page.status_code, str(page.url)) for page in await asyncio.gather(*clicks)}) == 1
        await screen.send(f"/loyalty/{money}/cards", **form)
        assert "2 cards issued." in screen.text
        await screen.send(f"/loyalty/{money}/cards", **form | {"count": "3"})
        assert screen.status == 422
        await screen.open(f"/loyalty/{money}")
        assert "Outstanding 50.00 EUR" in screen.text
