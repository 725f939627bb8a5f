"""Test the campaign page in headless Chromium with the screens of a phone and a desktop.

Set SCREENSHOTS=<directory> to save a screenshot of each state there.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from issuer.access.api_keys import create_key
from issuer.recovery.opening import open_stores
from tests.support.api_process import ApiProcess
from tests.support.coupon_service import PAST, ahead
from tests.support.databases import clone_database
from tests.support.programs import require
from tests.support.servers import START_LIMIT_S, PostgresServer, RedisServer
from tests.support.service import settings_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLAGS: Final = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True,
}  # fmt: skip
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 1280, "height": 800}}
CODE: Final = re.compile("^[가나다라마바사아자차카타파하0-9]{10}$")


@dataclass(slots=True)
class BrowserStage:
    """An API process, a browser, and the errors that the pages reported."""

    http: httpx.AsyncClient
    browser: Browser
    url: str
    errors: list[str] = field(default_factory=list)

    async def create(self, **fields: Any) -> str:
        body = {"name": "Night market", "total": 1, "starts_at": PAST, "public": True, **fields}
        response = await self.http.post("/api/v1/campaigns", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def change(self, campaign: str, **fields: Any) -> None:
        assert (await self.http.patch(f"/api/v1/campaigns/{campaign}", json=fields)).status_code == 200

    async def open(self, campaign: str, **options: Any) -> Page:
        """Open the page in a browser context of its own, as a visitor without an API key."""
        context = await self.browser.new_context(**(options or PHONE))
        page = await context.new_page()
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._check_origin(request))
        response = await page.goto(f"{self.url}/c/{campaign}")
        assert response is not None
        assert response.status == 200
        return page

    def _check_origin(self, request: Any) -> None:
        if not request.url.startswith(self.url):
            self.errors.append(f"request to another server: {request.url}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BrowserStage]:
    """The API process and the browser of all tests here: each takes longer to start than a test."""
    chromium = require("chromium")
    expect.set_options(timeout=START_LIMIT_S * 1_000)
    settings = settings_of(redis_server, clone_database(postgres_server))
    async with open_stores(settings) as stores:
        _, secret = await create_key(stores.postgres, name="test", scopes=["admin"], actor="test")
    with ApiProcess(settings, tmp_path_factory.mktemp("browser")) as api:
        await asyncio.to_thread(api.wait_until_ready)
        headers = {"authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=api.url, headers=headers) as http, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            try:
                yield BrowserStage(http, browser, api.url)
            finally:
                await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(site: BrowserStage) -> AsyncIterator[BrowserStage]:
    """The same for one test, which must leave no error on a page."""
    site.errors.clear()
    yield site
    for context in site.browser.contexts:
        await context.close()
    assert site.errors == []


async def screenshot(page: Page, name: str) -> None:
    """Check that nothing is wider than the screen; save a screenshot if SCREENSHOTS is set."""
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if directory := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(directory) / f"{name}.png")


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
