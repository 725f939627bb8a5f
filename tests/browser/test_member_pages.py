"""Test the pages of members in headless Chromium: on a phone and a desktop, in two languages, without a script."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final
from uuid import uuid4

import pytest
from playwright.async_api import Page, expect

from tests.support.axe import grave_faults
from tests.support.browser import DESKTOP, PHONE, BrowserStage, screenshot
from tests.support.mail_server import TestMailServer
from tests.support.member_pages import code_in, last_mail, link_in
from tests.support.servers import START_LIMIT_S

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.long]

PROGRAMS: Final = "/api/v1/loyalty/programs"
TERMS: Final = {
    "earn": {"points": 1, "per": "1.00", "currency": "EUR"},
    "expiry": {"end_of_year": 1},
    "tiers": [{"name": "Gold", "lifetime": 100}],
}


@pytest.fixture
def inbox(mail_server: TestMailServer) -> TestMailServer:
    mail_server.messages.clear()
    return mail_server


async def created(stage: BrowserStage) -> str:
    """A new program's id."""
    body = {"name": "Café Blau", "client": str(uuid4()), "terms": TERMS}
    response = await stage.http.post(PROGRAMS, json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def offer(stage: BrowserStage, program: str) -> None:
    """A reward of the program with one code, and one that costs more than anyone has."""
    client = (await stage.http.get(f"{PROGRAMS}/{program}")).json()["client_id"]
    codes = {"file": ("codes.csv", f"client_id,code\n{client},CAKE-ONLY-1\n".encode(), "text/csv")}
    uploaded = await stage.http.post("/api/v1/codes/upload", files=codes, data={"batch_name": f"Cakes {program}"})
    for name, cost in (("A piece of cake", 2_000), ("Breakfast for two with everything on the menu", 90_000)):
        body = {"name": name, "cost": cost, "batch_id": uploaded.json()["batch_id"]}
        response = await stage.http.post(f"{PROGRAMS}/{program}/rewards", json=body)
        assert response.status_code == 201, response.text


async def mailed(inbox: TestMailServer, count: int, to: str) -> Any:
    async with asyncio.timeout(START_LIMIT_S):
        while len(inbox.messages) < count:
            await asyncio.sleep(0.02)
    return last_mail(inbox, to)


async def shown(page: Page, name: str) -> None:
    """Look at a page as a test can: no grave fault, nothing wider than the screen; save a screenshot."""
    assert await grave_faults(page) == []
    await screenshot(page, name)


async def test_a_customer_joins_on_a_phone_and_uses_every_page(stage: BrowserStage, inbox: TestMailServer) -> None:
    program = await created(stage)
    page = await stage.visit(f"/l/{program}", **PHONE)
    await shown(page, "member-sign-in-phone")
    await page.get_by_label("E-mail address").fill("anna@shop.example")
    await page.get_by_role("button", name="Continue").tap()
    await expect(page.get_by_role("heading", name="Enter your code")).to_be_visible()
    await shown(page, "member-code-phone")
    code = code_in(await mailed(inbox, 1, "anna@shop.example"))
    await page.get_by_label("Code").fill("12")
    await page.get_by_role("button", name="Sign in").tap()
    await expect(page.get_by_text("This code is not valid.")).to_be_visible()
    await expect(page.get_by_label("Code")).to_be_focused()
    await shown(page, "member-code-wrong-phone")
    await page.get_by_label("Code").fill(f"{code[:3]} {code[3:]}")
    await page.get_by_role("button", name="Sign in").tap()
    await expect(page.get_by_text("Welcome!")).to_be_visible()
    await shown(page, "member-joined-phone")

    members = f"{PROGRAMS}/{program}/members"
    member = (await stage.http.get(members)).json()["items"][0]["id"]
    for number in range(1, 8):
        order = {"amount": f"{number}45.00", "currency": "EUR", "source": "till", "order_id": f"A-{number}"}
        assert (await stage.http.post(f"{members}/{member}/earn", json=order)).status_code == 201
    await offer(stage, program)
    await page.reload()
    await expect(page.locator(".figure")).to_have_text("3,115")
    await expect(page.get_by_text("Level: Gold")).to_be_visible()
    await expect(page.get_by_text(re.compile(r"Use 3,115 by December 31, \d{4}"))).to_be_visible()
    await shown(page, "member-points-phone")
    await page.get_by_role("link", name="Take A piece of cake").tap()
    await expect(page.get_by_text("It costs 2,000; you have 3,115.")).to_be_visible()
    await shown(page, "member-reward-phone")
    await page.get_by_role("button", name="Take it").tap()
    await expect(page.get_by_text("CAKE-ONLY-1")).to_be_visible()
    await expect(page.locator(".figure")).to_have_text("1,115")
    await shown(page, "member-code-taken-phone")
    await page.get_by_role("link", name="Whole history").tap()
    await expect(page.get_by_role("listitem")).to_have_count(8)
    await shown(page, "member-history-phone")
    await page.get_by_role("link", name="Back").tap()
    await page.get_by_role("link", name="My data").tap()
    await page.get_by_label("Name", exact=True).fill("Anna Lee")
    await page.get_by_label("I want to get offers").check()
    await page.get_by_role("button", name="Save").tap()
    await expect(page.get_by_role("status")).to_have_text("Saved.")
    await shown(page, "member-profile-phone")
    async with page.expect_download() as started:
        await page.get_by_role("link", name="Download my data").tap()
    assert (await started.value).suggested_filename == "my-data.json"
    await page.get_by_role("button", name="Deutsch").tap()
    await expect(page.get_by_role("heading", name="Meine Daten", exact=True)).to_be_visible()
    await page.get_by_role("link", name="Mein Konto löschen").tap()
    await expect(page.get_by_role("heading", name="Mein Konto löschen")).to_be_visible()
    await shown(page, "member-delete-phone-german")
    await page.get_by_label("Ja, das möchte ich.").check()
    await page.get_by_role("button", name="Mein Konto löschen").tap()
    await expect(page.get_by_role("status")).to_have_text("Ihr Konto ist gelöscht.")
    stage.errors[:] = [error for error in stage.errors if "status of 422" not in error]


async def test_the_link_of_the_mail_signs_in_on_another_device(stage: BrowserStage, inbox: TestMailServer) -> None:
    program = await created(stage)
    german = {"locale": "de-DE", "color_scheme": "dark", **DESKTOP}
    page = await stage.visit(f"/l/{program}", java_script_enabled=False, **german)
    await page.get_by_label("E-Mail-Adresse").fill("otto@shop.example")
    await page.get_by_role("button", name="Weiter").click()
    message = await mailed(inbox, 1, "otto@shop.example")
    assert message["Content-Language"] == "de"
    path = link_in(message).partition("/l/")[2]
    other = await stage.visit(f"/l/{path}", **german)
    await expect(other.get_by_role("button", name="Anmelden")).to_be_visible()
    await shown(other, "member-link-desktop-german")
    await other.get_by_role("button", name="Anmelden").click()
    await expect(other.get_by_text("Willkommen!")).to_be_visible()
    await shown(other, "member-joined-desktop-german")
    await other.get_by_role("button", name="Abmelden").click()
    await expect(other.get_by_role("status")).to_have_text("Sie sind abgemeldet.")
    await shown(other, "member-signed-out-desktop-german")
    unknown = await stage.visit("/l/x", status=404, **PHONE)
    await expect(unknown.get_by_role("heading", name="Nothing is here")).to_be_visible()
    await shown(unknown, "member-unknown-phone")
    stage.errors[:] = [error for error in stage.errors if "status of 404" not in error]
