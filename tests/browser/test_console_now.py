"""Now, in headless Chromium: it changes by itself, and charts show what was issued."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from issuer.recovery.opening import open_stores
from tests.support.browser import BrowserStage, screenshot
from tests.support.console_screens import sample_objects, signed_in

pytestmark = pytest.mark.asyncio(loop_scope="package")

_RATES = """
INSERT INTO pool_rates SELECT id, now() + interval '1 hour', 0.42, 0.38, 27, now() + interval '71 minutes'
FROM pools WHERE batch_id = $1 ON CONFLICT DO NOTHING"""
_SERIES = """
INSERT INTO series_minutes SELECT p.id, date_trunc('minute', now()) - n * interval '1 minute', outcome,
  (of * (2 + sin(n / 229.0)))::int
FROM generate_series(1, 1400) AS n, (VALUES ('granted', 20), ('sold_out', 3)) AS o(outcome, of),
  (SELECT 0 AS id UNION SELECT id FROM pools WHERE batch_id = $1) AS p
ON CONFLICT (pool_id, at, outcome) DO UPDATE SET count = excluded.count"""


@pytest.mark.long
async def test_now_is_live_and_draws_what_was_issued(stage: BrowserStage) -> None:
    batch = (await sample_objects(stage))["batch"]
    page = await signed_in(stage)
    await page.goto(f"{stage.url}/console/now")
    figures = page.locator("#now")
    await expect(figures).to_contain_text("Redis")
    await figures.evaluate("part => { part.firstElementChild.id = 'before' }")
    await expect(page.locator("#before")).to_have_count(0)
    await expect(page.get_by_text("Empty first")).to_be_visible()
    async with open_stores(stage.settings) as stores:
        await stores.postgres.execute(_RATES, batch)
        await stores.postgres.execute(_SERIES, batch)
    pools = page.get_by_role("region", name="Pools that will be empty first")
    await expect(pools.get_by_role("link", name="Summer tour, early birds")).to_be_visible()
    await expect(pools).to_contain_text("minutes")
    await page.reload()
    chart = page.locator("[data-series]")
    await expect(chart.locator("canvas")).to_be_visible()
    await expect(chart.get_by_role("status")).to_contain_text("issued")
    await screenshot(page, "console-now-live")
    await pools.get_by_role("link").first.click()
    await expect(chart.locator("canvas")).to_be_visible()
    await chart.get_by_role("button", name="15 minutes").click()
    await expect(chart.get_by_role("button", name="15 minutes")).to_have_attribute("aria-pressed", "true")
    await expect(chart.get_by_role("status")).to_contain_text("issued")
    await screenshot(page, "console-batch-chart")
