"""Links to the console on other sites, in headless Chromium: who is signed in stays so, and sees the page."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.support.browser import BrowserStage
from tests.support.console_screens import signed_in

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_link_on_another_site_opens_the_page_of_who_is_signed_in(stage: BrowserStage) -> None:
    page = await signed_in(stage)
    for path, heading in (("/console/incidents", "Incidents"), ("/console/find?q=unknown", "Find")):
        await page.goto(f"data:text/html,<a href='{stage.url}{path}'>See</a>")
        await page.get_by_role("link", name="See").click()
        await expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    await page.goto(f"{stage.url}/console/ledger")
    await expect(page.get_by_role("heading", name="Ledger", exact=True)).to_be_visible()
