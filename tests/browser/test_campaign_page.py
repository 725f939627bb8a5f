"""Test the campaign page in headless Chromium with the screens of a phone and a desktop."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import uuid4

import pytest
from playwright.async_api import expect

from tests.support.browser import DESKTOP, PHONE, BrowserStage, screenshot
from tests.support.coupon_service import PAST, ahead

pytestmark = pytest.mark.asyncio(loop_scope="package")

CODE: Final = re.compile("^[2-9A-HJKMNP-TV-Z]{10}$")


async def test_the_countdown_ends_in_a_code_and_the_next_visitor_sees_sold_out(stage: BrowserStage) -> None:
    campaign = await stage.create(starts_at=ahead(3_600))
    phone, desktop = await stage.open(campaign), await stage.open(campaign, **DESKTOP)
    for page, name in ((phone, "phone"), (desktop, "desktop")):
        await expect(page.get_by_role("heading", level=1)).to_have_text("Night market")
        await expect(page.get_by_role("timer")).to_be_visible()
        await expect(page.locator("#seconds")).to_have_text(re.compile(r"^\d\d$"))
        await expect(page.get_by_role("button")).to_have_count(0)
        await screenshot(page, f"{name}-before")
    await stage.change(campaign, starts_at=ahead(3))
    for page, name in ((phone, "phone"), (desktop, "desktop")):
        await expect(page.get_by_role("button", name="Get your code")).to_be_visible()
        await expect(page.get_by_text("1 of 1 left")).to_be_visible()
        await screenshot(page, f"{name}-open")

    await phone.get_by_role("button", name="Get your code").tap()
    await expect(phone.locator("#code")).to_have_text(CODE)
    await expect(phone.locator("#code")).to_be_focused()
    code = await phone.locator("#code").text_content()
    await expect(phone.get_by_role("status")).to_have_text("You have a code.")
    await screenshot(phone, "phone-claimed")
    issued = (await stage.http.get(f"/api/v1/campaigns/{campaign}/codes")).json()["items"]
    assert [item["code"] for item in issued] == [code]

    # The other page is updated by the event stream.
    await expect(desktop.get_by_text("Sold out", exact=True)).to_be_visible()
    await expect(desktop.get_by_role("button")).to_have_count(0)
    await screenshot(desktop, "desktop-sold-out")

    await phone.reload()
    await expect(phone.locator("#code")).to_have_text(code or "")


@pytest.mark.long
async def test_an_open_page_shows_sold_out_once_the_last_code_is_issued(stage: BrowserStage) -> None:
    campaign = await stage.create(total=2)
    one, two, late = [await stage.open(campaign) for _ in range(3)]
    wide = await stage.open(campaign, **DESKTOP)
    for page in (one, two, late, wide):
        await expect(page.get_by_role("button", name="Get your code")).to_be_visible()
    await wide.get_by_role("button", name="Get your code").click()
    await expect(wide.locator("#code")).to_have_text(CODE)
    await screenshot(wide, "desktop-claimed")
    await one.get_by_role("button", name="Get your code").tap()
    await expect(one.locator("#code")).to_have_text(CODE)
    await expect(late.get_by_text("Sold out", exact=True)).to_be_visible()
    await expect(late.get_by_text("All 2 codes are gone.")).to_be_visible()
    await screenshot(late, "phone-sold-out")


@pytest.mark.long
async def test_a_lost_response_costs_no_second_code(stage: BrowserStage) -> None:
    campaign = await stage.create(total=5)
    page = await stage.open(campaign)
    lost = 0

    async def lose(route: Any) -> None:
        nonlocal lost
        await route.fetch()
        lost += 1
        await (route.abort() if lost < 3 else route.continue_())

    await page.route("**/coupon.CouponService/*", lose)
    await page.get_by_role("button", name="Get your code").tap()
    await expect(page.locator("#code")).to_have_text(CODE)
    assert lost == 3
    shown = (await stage.http.get(f"/api/v1/campaigns/{campaign}")).json()
    assert shown["issued"] == 1
    stage.errors[:] = [error for error in stage.errors if "ERR_FAILED" not in error]


async def test_the_countdown_follows_the_clock_of_the_server(stage: BrowserStage) -> None:
    campaign = await stage.create(starts_at=ahead(9_000))
    context = await stage.browser.new_context(**PHONE)
    page = await context.new_page()
    await page.add_init_script("const real = Date.now; Date.now = () => real() + 3600000;")
    await page.goto(f"{stage.url}/c/{campaign}")
    await expect(page.locator("#hours")).to_have_text("02")


@pytest.mark.long
async def test_the_page_shows_a_pause_and_the_end_as_they_happen(stage: BrowserStage) -> None:
    campaign = await stage.create(total=3)
    page = await stage.open(campaign, viewport={"width": 320, "height": 568})
    await expect(page.get_by_role("button", name="Get your code")).to_be_visible()
    await stage.change(campaign, paused=True)
    await expect(page.locator("#paused")).to_be_visible()
    await screenshot(page, "phone-paused")
    await stage.change(campaign, paused=False)
    await expect(page.get_by_role("button", name="Get your code")).to_be_visible()
    await stage.change(campaign, ended=True)
    await expect(page.locator("#ended")).to_be_visible()
    await screenshot(page, "phone-ended")


@pytest.mark.long
async def test_pages_are_in_the_language_of_the_browser(stage: BrowserStage) -> None:
    campaign = await stage.create(total=1200, starts_at=ahead(3_600))
    page = await stage.open(campaign, locale="de-DE", timezone_id="Europe/Berlin", **PHONE)
    await expect(page.get_by_text("Beginnt in")).to_be_visible()
    # The month by the language of the page, the time by the clock of the visitor.
    await expect(page.locator("#start")).to_have_text(re.compile(r"\d\d\.\d\d\.\d{4}, \d\d:\d\d:\d\d"))
    await screenshot(page, "phone-german")
    await stage.change(campaign, starts_at=PAST)
    await expect(page.get_by_text("Noch 1.200 von 1.200")).to_be_visible()
    await page.get_by_role("button", name="Code abholen").tap()
    await expect(page.get_by_role("status")).to_have_text("Sie haben einen Code.")

    unknown = await stage.visit(f"/c/{uuid4()}", status=404, **PHONE)
    await expect(unknown.get_by_role("heading", name="Nothing is here")).to_be_visible()
    await screenshot(unknown, "phone-unknown")
    # Chromium reports the status of the page as an error.
    stage.errors[:] = [error for error in stage.errors if "status of 404" not in error]
