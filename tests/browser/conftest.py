"""A real API process and a headless Chromium, shared by all tests of this folder.

Set SCREENSHOTS=<directory> to save screenshots there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from issuer.access.api_keys import create_key
from issuer.recovery.opening import open_stores
from tests.support.api_process import ApiProcess
from tests.support.browser import FEALTY_PROGRAM, FLAGS, BrowserStage
from tests.support.databases import clone_database
from tests.support.mail_server import TestMailServer
from tests.support.programs import require
from tests.support.servers import START_LIMIT_S, PostgresServer, RedisServer
from tests.support.service import settings_of


@pytest.fixture(scope="package")
def mail_server() -> Iterator[TestMailServer]:
    with TestMailServer() as server:
        yield server


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def site(
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
    mail_server: TestMailServer,
) -> AsyncIterator[BrowserStage]:
    """The API process and the browser of all tests here: each takes longer to start than a test."""
    chromium = require("chromium")
    expect.set_options(timeout=START_LIMIT_S * 1_000)
    settings = settings_of(redis_server, clone_database(postgres_server))
    async with open_stores(settings) as stores:
        _, secret = await create_key(stores.postgres, name="test", scopes=["admin", "redeem"], actor="test")
    environment = {
        "ISSUER_SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}",
        "ISSUER_MAIL_FROM": "Café Blau <points@shop.example>",
        "ISSUER_PUBLIC_URL": "https://points.shop.example",
        "ISSUER_FEALTY": "on",
        "ISSUER_FEALTY_PROGRAM": FEALTY_PROGRAM,
    }
    with ApiProcess(settings, tmp_path_factory.mktemp("browser"), **environment) as api:
        await asyncio.to_thread(api.wait_until_ready)
        headers = {"authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(base_url=api.url, headers=headers) as http, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            try:
                yield BrowserStage(http, browser, api.url, settings)
            finally:
                await browser.close()


@pytest_asyncio.fixture(loop_scope="package")
async def stage(site: BrowserStage) -> AsyncIterator[BrowserStage]:
    """The same for one test, which must leave no error on a page."""
    site.errors.clear()
    yield site
    for context in site.browser.contexts:
        await context.close()
    assert site.errors == []
