"""A browser on the pages of an API process."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.async_api import Browser, Page

from issuer.settings import Settings
from tests.support.coupon_service import PAST

FLAGS: Final = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True,
}  # fmt: skip
FEALTY_PROGRAM: Final = "The old shop"
"""The program of the routes of FealTY. No other test has one of this name."""
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 1280, "height": 800}}


@dataclass(slots=True)
class BrowserStage:
    """An API process, a browser, and the errors that the pages reported."""

    http: httpx.AsyncClient
    browser: Browser
    url: str
    settings: Settings
    errors: list[str] = field(default_factory=list)

    async def create(self, **fields: Any) -> str:
        body = {"name": "Night market", "total": 1, "starts_at": PAST, "public": True, **fields}
        response = await self.http.post("/api/v1/campaigns", json=body)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def change(self, campaign: str, **fields: Any) -> None:
        assert (await self.http.patch(f"/api/v1/campaigns/{campaign}", json=fields)).status_code == 200

    async def open(self, campaign: str, **options: Any) -> Page:
        return await self.visit(f"/c/{campaign}", **options)

    async def visit(self, path: str, *, status: int = 200, **options: Any) -> Page:
        """Open a page in a browser context of its own, as a visitor without an API key."""
        context = await self.browser.new_context(**(options or PHONE))
        page = await context.new_page()
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._check_origin(request))
        response = await page.goto(f"{self.url}{path}")
        assert response is not None
        assert response.status == status
        return page

    def _check_origin(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.errors.append(f"request to another server: {request.url}")


async def screenshot(page: Page, name: str) -> None:
    """Check that nothing is wider than the screen; save a screenshot if SCREENSHOTS is set."""
    size = page.viewport_size
    assert size is not None
    # The width of the screen, not innerWidth: that one grows with the page on a phone.
    assert await page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    if directory := os.environ.get("SCREENSHOTS"):
        await page.screenshot(path=Path(directory) / f"{name}.png")
