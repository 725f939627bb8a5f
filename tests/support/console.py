"""The console without a browser: pages are fetched, and their forms are sent as a browser sends them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Final

import httpx

from issuer.http.console.console_visit import HOME, SIGN_IN
from tests.support.api import Api

LOOPBACK: Final = "http://127.0.0.1"
"""Cookies are sent to it without TLS."""
_TOKEN: Final = re.compile(r'name="form_token" value="([0-9a-f]+)"')


class ConsoleScreen:
    """What a browser shows of the console. `open` and `send` take paths below /console, such as `/keys`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.status, self.html, self.path, self.token = 0, "", "", ""

    @property
    def text(self) -> str:
        """The words of the page."""
        body = re.sub(r"<style>.*?</style>|<script.*?</script>", "", self.html, flags=re.DOTALL)
        return " ".join(unescape(re.sub("<[^>]+>", " ", body)).split())

    async def open(self, path: str = "") -> None:
        self.show(await self.http.get(HOME + path))

    async def send(self, path: str, **fields: str) -> None:
        """Send a form of the page, and follow where it leads."""
        self.show(await self.http.post(HOME + path, data={"form_token": self.token} | fields))

    @property
    def form_id(self) -> str:
        """The id of the form of the page, which is carried out once."""
        return str(re.findall(r'name="form_id" value="([0-9a-f-]+)"', self.html)[0])

    @property
    def shown(self) -> dict[str, str]:
        """What the form of the page showed when it was opened, and the fields as they were then."""
        found = {name: unescape(value) for name, value in re.findall(r'name="(shown_\w+)" value="([^"]*)"', self.html)}
        return found | {name.removeprefix("shown_"): value for name, value in found.items()}

    async def sign_in(self, key: dict[str, str]) -> None:
        """Sign in with an API key, given as headers."""
        await self.open(SIGN_IN.removeprefix(HOME))
        await self.send(SIGN_IN.removeprefix(HOME), key=secret_of(key))

    def show(self, page: httpx.Response) -> None:
        self.status, self.html = page.status_code, page.text
        self.path = page.url.path.removeprefix(HOME)
        tokens = _TOKEN.findall(page.text)
        self.token = tokens[0] if tokens else self.token


def secret_of(key: dict[str, str]) -> str:
    return key["Authorization"].removeprefix("Bearer ")


@asynccontextmanager
async def console_screen(api: Api, key: dict[str, str] | None = None) -> AsyncIterator[ConsoleScreen]:
    """A browser of its own, signed in with a key if one is given."""
    transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=LOOPBACK, follow_redirects=True) as http:
        screen = ConsoleScreen(http)
        if key is not None:
            await screen.sign_in(key)
        yield screen
