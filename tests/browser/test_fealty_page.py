"""Test the admin page of FealTY in headless Chromium, with Basic credentials as its users enter them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Page, expect

from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import Terms
from issuer.recovery.opening import open_stores
from tests.support.axe import grave_faults
from tests.support.browser import DESKTOP, FEALTY_PROGRAM, PHONE, BrowserStage, screenshot

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.long]

ADMIN = "/api/v1/accounts/admin"


async def send(page: Page, form: str, **fields: str) -> None:
    """Fill a form by the ids that the predecessor's page has, and send it."""
    for name, value in fields.items():
        await page.locator(f"#{name}{form}").fill(value)
    await page.locator(f"form[action$='/form/{form.lower()}'] button").click()


async def test_accounts_are_managed_by_the_forms_of_the_predecessor(stage: BrowserStage) -> None:
    async with open_stores(stage.settings) as stores:
        await create_program(stores.postgres, uuid4(), FEALTY_PROGRAM, Terms(), actor="test")
    key = stage.http.headers["authorization"].removeprefix("Bearer ")
    who: dict[str, Any] = {"http_credentials": {"username": "fealty", "password": key}}
    page = await stage.visit(ADMIN, **who, **DESKTOP)
    await expect(page.get_by_role("heading", level=1)).to_have_text(FEALTY_PROGRAM)
    await screenshot(page, "fealty-desktop-empty")

    message = page.get_by_role("status")
    for email, points in (("anna@test.com", "50"), ("bea@test.com", "1234567")):
        await send(page, "Create", email=email, points=points)
        await expect(message).to_contain_text(email)
    await expect(message).to_contain_text("1,234,567")
    await send(page, "Create", email="anna@test.com", points="1")
    await expect(page.get_by_role("alert")).to_have_text("There is an account for anna@test.com already.")
    await screenshot(page, "fealty-desktop-exists")
    await page.locator("#marketing_trueUpdate").check()
    await send(page, "Update", email="anna@test.com", points="200")
    await expect(page.get_by_role("row", name="anna@test.com 200 yes")).to_be_visible()
    await send(page, "Update", email="anna@test.com", points="")
    await expect(page.get_by_role("row", name="anna@test.com 200 yes")).to_be_visible()
    await send(page, "Search", email="bea@test.com")
    await expect(message).to_contain_text("Found")
    await screenshot(page, "fealty-desktop-found")
    assert await grave_faults(page) == []

    phone = await stage.visit(ADMIN, locale="de-DE", color_scheme="dark", **who, **PHONE)
    await expect(phone.get_by_role("heading", name="2 Konten")).to_be_visible()
    await screenshot(phone, "fealty-phone-german")
    assert await grave_faults(phone) == []
    await send(phone, "Delete", email="bea@test.com")
    await expect(phone.get_by_role("status")).to_contain_text("Gelöscht")
    await expect(phone.get_by_role("heading", name="1 Konto")).to_be_visible()
    await screenshot(phone, "fealty-phone-deleted")
