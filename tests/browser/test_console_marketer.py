"""A marketer's job in the browser alone: from sign-in to a workbook of codes that is live at a time in Berlin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from playwright.async_api import FilePayload, expect

from tests.support.axe import grave_faults
from tests.support.browser import DESKTOP, BrowserStage, screenshot
from tests.support.console_screens import signed_in
from tests.support.input_files import saved

pytestmark = pytest.mark.asyncio(loop_scope="package")
MAX_CLICKS: Final = 8


def next_friday() -> datetime:
    """Ten o'clock in Berlin on the Friday of next week."""
    today = datetime.now(ZoneInfo("Europe/Berlin")).replace(hour=10, minute=0, second=0, microsecond=0)
    return today + timedelta(days=(4 - today.weekday()) % 7 + 7)


def codes_in_a_workbook(count: int) -> bytes:
    """A workbook as marketers have it: one column, with the codes."""
    book = openpyxl.Workbook()
    book.active.append(("Code",))
    for _ in range(count):
        book.active.append((f"SPRING-{uuid4()}",))
    return saved(book)


async def test_a_workbook_is_scheduled_for_friday_in_berlin(stage: BrowserStage) -> None:
    """Two per customer in any 30 days. Each click counts; the keyboard types, and chooses the file."""
    client, clicks = f"shop-{uuid4()}", 0
    await stage.http.post("/api/v1/clients", json={"id": client})
    page = await signed_in(stage, timezone_id="Europe/Berlin", **DESKTOP)

    async def click(act: Callable[[], Awaitable[None]]) -> None:
        nonlocal clicks
        clicks += 1
        await act()

    await click(page.get_by_role("link", name="Batches").first.click)
    await click(page.get_by_role("link", name="New batch").first.click)
    await page.get_by_label("Name").fill("Spring <2031>")
    file: FilePayload = {
        "name": "Codes.xlsx",
        "mimeType": "application/vnd.ms-excel",
        "buffer": codes_in_a_workbook(300),
    }
    await click(lambda: page.get_by_label("File", exact=True).set_input_files(file))
    await page.get_by_label("Client", exact=True).fill("no such shop")
    await page.get_by_label("Codes per customer").fill("0")
    friday = next_friday()
    await page.get_by_label("Starts").fill(friday.strftime("%Y-%m-%dT%H:%M"))
    await expect(page.get_by_label("Within")).to_have_value("30")
    await expect(page.get_by_label("Time zone")).to_have_value("Europe/Berlin")
    await click(page.get_by_role("button", name="Create batch").click)
    await expect(page.get_by_text("Type a whole number from 1 to 10,000.")).to_be_visible()
    await expect(page.get_by_text("No client is called no such shop.")).to_be_visible()
    assert await grave_faults(page) == []
    await screenshot(page, "console-marketer-refused")
    await page.get_by_label("Codes per customer").fill("2")
    await page.get_by_label("Client", exact=True).fill(client)
    await click(lambda: page.get_by_label("File", exact=True).set_input_files(file))
    await click(page.get_by_role("button", name="Create batch").click)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Spring <2031>")
    shown = friday.strftime("%a %-d %b %Y, 10:00 ") + (friday.tzname() or "")
    said = f"Scheduled 2 per customer in any 30 days, from {shown}."
    await expect(page.locator("main .head").first).to_contain_text(said)
    await screenshot(page, "console-marketer-done")
    assert clicks <= MAX_CLICKS
    batch = (await stage.http.get(page.url.replace("/console/", "/api/v1/"))).json()
    assert batch["rules"] == {"maxpercustomer": 2, "timelimit": 30}
    assert datetime.fromisoformat(batch["starts_at"]) == friday
    assert [pool["total"] for pool in batch["stock"]] == [300]
    stage.errors[:] = [error for error in stage.errors if "status of 422" not in error]


@pytest.mark.long
async def test_the_same_is_done_by_keyboard_alone(stage: BrowserStage) -> None:
    """Every control is reached by Tab, shows that it is, and works by Enter, Space or typing."""
    page = await signed_in(stage, timezone_id="Europe/Berlin", **DESKTOP)
    keys = page.keyboard

    async def reach(name: str) -> None:
        """Press Tab until the control of this name has the focus, which is visible."""
        for _ in range(60):
            await keys.press("Tab")
            if await page.evaluate(_FOCUSED) == name:
                assert await page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{name} is not reached by Tab")

    await reach("Batches")
    await keys.press("Enter")
    await page.wait_for_url("**/console/batches")
    await keys.press("Tab")
    assert await page.evaluate(_FOCUSED) == "Skip to content"
    await keys.press("Enter")
    await reach("New batch")
    await keys.press("Enter")
    await page.wait_for_url("**/console/batches/new")
    await reach("Name")
    await keys.type("By keyboard")
    await reach("From a file")
    await keys.press("ArrowDown")
    await keys.press("ArrowDown")
    await reach("Codes per customer")
    await keys.type("2")
    await reach("Create batch")
    await keys.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("By keyboard")
    await reach("End this batch…")
    await keys.press("Enter")
    await reach("End By keyboard")
    await keys.press("Space")
    await expect(page.locator("main .head").first).to_contain_text("Ended")


_FOCUSED: Final = """(() => {
  const focused = document.activeElement
  return (focused.labels?.[0] ?? focused).textContent.trim()
})()"""
