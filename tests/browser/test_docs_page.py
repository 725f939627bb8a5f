"""Test /docs in headless Chromium: the viewer runs under the page's policy, takes a key and sends requests."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import expect

from tests.support.browser import DESKTOP, PHONE, BrowserStage, screenshot

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest.mark.long
async def test_a_reader_enters_a_key_and_creates_a_batch(stage: BrowserStage) -> None:
    page = await stage.visit("/docs", **DESKTOP)
    operation = page.locator("#operations-batches-createBatch")
    await expect(operation).to_be_visible()
    await screenshot(page, "docs-desktop")
    await page.get_by_role("button", name="Authorize").first.click()
    form = page.locator(".modal-ux form", has=page.locator("#auth-bearer-value"))
    await form.locator("input").fill(stage.http.headers["authorization"].removeprefix("Bearer "))
    await screenshot(page, "docs-authorize")
    await form.locator("button[type=submit]").click()
    await page.locator(".modal-ux .btn-done").first.click()

    await operation.get_by_role("button").first.click()
    body = operation.locator("textarea.body-param__text")
    # What the viewer shows as an example can be sent.
    example = json.loads(await body.input_value())
    await body.fill(json.dumps({**example, "name": "From the docs"}))
    await operation.get_by_role("button", name="Execute").click()
    await expect(operation.locator(".live-responses-table tbody .response-col_status")).to_contain_text("201")
    await operation.locator(".live-responses-table").scroll_into_view_if_needed()
    await screenshot(page, "docs-answer")
    batches = (await stage.http.get("/api/v1/batches?limit=100")).json()["items"]
    assert [batch["name"] for batch in batches if batch["name"] == "From the docs"] == ["From the docs"]


@pytest.mark.long
async def test_the_type_of_a_problem_leads_to_its_line(stage: BrowserStage) -> None:
    page = await stage.visit("/docs#problem-scope_missing", color_scheme="dark", **PHONE)
    await expect(page.locator("#operations-batches-createBatch")).to_be_visible()
    await expect(page.locator("#problem-scope_missing")).to_be_in_viewport()
    await screenshot(page, "docs-problem")
    await page.evaluate("scrollTo(0, 0)")
    await screenshot(page, "docs-phone")
