"""Test the till in headless Chromium: with a scanner, on a phone and a desktop, in two languages, without a script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Page, expect

from issuer.access.api_keys import create_key
from issuer.loyalty.member_store import create_member
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.staff import create_staff
from issuer.loyalty.terms import parse_terms
from issuer.recovery.opening import open_stores
from tests.support.axe import grave_faults
from tests.support.browser import DESKTOP, PHONE, BrowserStage, screenshot

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.long]

TERMS: Final = {
    "earn": {"points": 1, "per": "1.00", "currency": "EUR"}, "tiers": [{"name": "Regular", "lifetime": 10}],
}  # fmt: skip


@dataclass(frozen=True)
class TillCorner:
    """A program with a key for its till, two members of staff and one customer."""

    program: Program
    key: str
    pin: str

    @property
    def path(self) -> str:
        return f"/till/{self.program.id}"


async def open_counter(stage: BrowserStage) -> TillCorner:
    client = uuid4()
    async with open_stores(stage.settings) as stores:
        postgres = stores.postgres
        program = await create_program(postgres, client, "Bean & Leaf", parse_terms(TERMS, "points"), actor="test")
        _, key = await create_key(postgres, name="Till 1", scopes=["redeem"], client_id=client, actor="test")
        _, pin = await create_staff(postgres, program.id, "Anna", max_points=500, actor="test")
        await create_staff(postgres, program.id, "Bülent", actor="test")
        customer = {"ref": "M-1001", "email": "carla@example.org", "name": "Carla Núñez"}
        await create_member(postgres, program, customer, actor="test")
    async with httpx.AsyncClient(base_url=stage.url, headers={"Authorization": f"Bearer {key}"}) as http:
        # The process learns of the key within a second.
        while (await http.get("/api/v1/batches")).status_code == 401:
            pass
    return TillCorner(program, key, pin)


async def scan(page: Page, card: str) -> None:
    """Type as a scanner does: into whatever has the focus, with Enter at the end."""
    await page.keyboard.type(card)
    await page.keyboard.press("Enter")


async def look(page: Page, name: str, *, scripts: bool = True) -> None:
    """Check the screen; axe-core needs scripts."""
    await screenshot(page, name)
    if scripts:
        assert await grave_faults(page) == []


@pytest.mark.parametrize(("screen", "options"), [("phone", PHONE), ("desktop", DESKTOP)])
async def test_staff_work_at_the_till(stage: BrowserStage, screen: str, options: dict[str, Any]) -> None:
    counter, scripts = await open_counter(stage), screen == "desktop"
    page = await stage.visit(counter.path, java_script_enabled=scripts, **options)
    await expect(page.get_by_label("API key")).to_be_focused()
    await look(page, f"till-{screen}-key", scripts=scripts)
    await page.get_by_label("API key").fill(counter.key)
    await page.get_by_role("button", name="Sign in").click()

    await page.get_by_label("Who works here?").select_option("Anna")
    await page.get_by_label("PIN").fill("wrong")
    await page.get_by_role("button", name="Start").click()
    await expect(page.get_by_text("That is not the PIN.")).to_be_visible()
    await look(page, f"till-{screen}-wrong-pin", scripts=scripts)
    await page.get_by_label("PIN").fill(counter.pin)
    await page.get_by_role("button", name="Start").click()

    field = page.get_by_label("Card, e-mail, phone or number of the member")
    await expect(field).to_be_focused()
    await look(page, f"till-{screen}-scan", scripts=scripts)
    await scan(page, "M-9999")
    await expect(page.get_by_text("There is no member or card with this.")).to_be_visible()
    await expect(field).to_be_focused()
    await look(page, f"till-{screen}-unknown", scripts=scripts)
    await scan(page, "M-1001")

    await expect(page.get_by_role("heading", name="Carla Núñez")).to_be_visible()
    amount = page.get_by_label("Amount of the purchase in EUR")
    await expect(amount).to_be_focused()
    await look(page, f"till-{screen}-account", scripts=scripts)
    await scan(page, "24.90")
    await expect(page.get_by_role("status")).to_have_text("The points are booked.")
    await expect(page.locator(".big")).to_have_text("24 points")
    await expect(page.get_by_text("Regular")).to_be_visible()
    # The next customer's card: the scanner's field has the focus again.
    await expect(field).to_be_focused()
    await look(page, f"till-{screen}-earned", scripts=scripts)

    await page.get_by_label("Points", exact=True).fill("25")
    await page.get_by_role("button", name="Deduct").click()
    await expect(page.get_by_text("There are not enough points.")).to_be_visible()
    await look(page, f"till-{screen}-too-few", scripts=scripts)
    await page.get_by_label("Points", exact=True).fill("20")
    await page.get_by_role("button", name="Deduct").click()
    await expect(page.locator(".big")).to_have_text("4 points")
    await page.get_by_role("button", name="Undo").first.click()
    await expect(page.get_by_role("status")).to_have_text("It is undone.")
    await expect(page.locator(".big")).to_have_text("24 points")
    await look(page, f"till-{screen}-undone", scripts=scripts)

    await page.get_by_role("link", name="My day").click()
    await expect(page.get_by_role("row", name="spent 1 20 points")).to_be_visible()
    await look(page, f"till-{screen}-day", scripts=scripts)
    await page.get_by_role("button", name="Leave").click()
    await expect(page.get_by_label("Who works here?")).to_be_visible()
    await page.get_by_role("button", name="Sign this till out").click()
    await expect(page.get_by_label("API key")).to_be_visible()
    # Chromium reports the status of a page as an error.
    stage.errors[:] = [error for error in stage.errors if "the server responded with a status of 40" not in error]


async def test_the_till_speaks_german_and_its_dark_screen_can_be_read(stage: BrowserStage) -> None:
    counter = await open_counter(stage)
    page = await stage.visit(counter.path, locale="de-DE", color_scheme="dark", **PHONE)
    await page.get_by_label("API-Schlüssel").fill(counter.key)
    await look(page, "till-german-key")
    await page.get_by_role("button", name="Anmelden").click()
    await page.get_by_label("Wer arbeitet hier?").select_option("Anna")
    await page.get_by_label("PIN").fill(counter.pin)
    await look(page, "till-german-pin")
    await page.get_by_role("button", name="Beginnen").click()
    await expect(page.get_by_label("Karte, E-Mail, Telefon")).to_be_focused()
    await scan(page, "carla@example.org")
    amount = page.get_by_label("Betrag des Einkaufs in EUR")
    await expect(amount).to_be_focused()
    await scan(page, "1.234,50")
    await expect(page.get_by_text("Geben Sie einen Betrag wie 12,50")).to_be_visible()
    await amount.fill("12,50")
    await page.keyboard.press("Enter")
    await expect(page.locator(".big")).to_have_text("12 Punkte")
    await look(page, "till-german-earned")
    stage.errors[:] = [error for error in stage.errors if "the server responded with a status of 40" not in error]
