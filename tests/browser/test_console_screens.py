"""Look at every screen of the console in headless Chromium, on a desktop and a phone, in light and dark."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.async_api import expect

from tests.support.axe import grave_faults
from tests.support.browser import DESKTOP, PHONE, BrowserStage, screenshot
from tests.support.console_screens import SCREENS, sample_objects, signed_in
from tests.support.parameters import some_long

pytestmark = pytest.mark.asyncio(loop_scope="package")
Scheme = Literal["light", "dark"]


@pytest.mark.parametrize(
    ("device", "scheme"),
    some_long([("phone", "dark"), ("desktop", "light"), ("desktop", "dark"), ("phone", "light")]),
)
async def test_every_screen_can_be_used_by_all_and_loads_nothing_from_elsewhere(
    stage: BrowserStage, device: str, scheme: Scheme
) -> None:
    """The stage reports what the policy refuses, errors of scripts and requests to other servers."""
    objects = await sample_objects(stage)
    page = await signed_in(stage, **(PHONE if device == "phone" else DESKTOP), color_scheme=scheme)
    faults = []
    for screen in SCREENS:
        response = await page.goto(stage.url + screen.path.format(**objects))
        assert response is not None
        assert response.status == 200, screen
        await expect(page.get_by_role("heading", level=1)).to_have_text(screen.heading)
        faults += [f"{screen.name}: {fault}" for fault in await grave_faults(page)]
        await screenshot(page, f"console-{screen.name}-{device}-{scheme}")
    assert faults == []
