"""A till without a browser: pages are fetched, and their forms are sent as a browser sends them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Final
from uuid import UUID

import httpx

from issuer.loyalty.member_store import create_member
from issuer.loyalty.program import Program
from issuer.loyalty.program_store import create_program
from issuer.loyalty.staff import create_staff
from issuer.loyalty.terms import parse_terms
from tests.support.api import Api

TERMS: Final = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}}
_HIDDEN: Final = re.compile(r'<input type="hidden" name="(form_token|once)" value="([^"]*)">')


@dataclass(slots=True)
class TillShop:
    """A program with a till key and one member of staff."""

    api: Api
    program: Program
    key: str
    staff_id: UUID
    pin: str

    @property
    def path(self) -> str:
        return f"/till/{self.program.id}"

    async def member(self, **values: str) -> int:
        """Add a member; return its account."""
        return (await create_member(self.api.owner, self.program, values, actor="test")).account_id


async def make_till_shop(api: Api, client_id: UUID, *, max_points: int | None = None) -> TillShop:
    program = await create_program(api.owner, client_id, "Beans", parse_terms(TERMS, "points"), actor="test")
    key = (await api.key("redeem", client_id=client_id))["Authorization"].removeprefix("Bearer ")
    staff, pin = await create_staff(api.owner, program.id, "Anna", max_points=max_points, actor="test")
    return TillShop(api, program, key, staff.id, pin)


class TillScreen:
    """What a browser at the till shows, and the values that its forms carry."""

    def __init__(self, http: httpx.AsyncClient, shop: TillShop) -> None:
        self.http, self.shop = http, shop
        self.status, self.html, self.path = 0, "", ""
        self.hidden: dict[str, str] = {}

    @property
    def text(self) -> str:
        """The words of the page."""
        body = re.sub(r"<style>.*?</style>", "", self.html, flags=re.DOTALL)
        return " ".join(unescape(re.sub("<[^>]+>", " ", body)).split())

    async def open(self, path: str = "") -> None:
        self._show(await self.http.get(self.shop.path + path))

    async def send(self, path: str, hidden: dict[str, str] | None = None, **fields: str) -> None:
        """Send a form of the page, and follow where it leads."""
        form = (self.hidden if hidden is None else hidden) | fields
        self._show(await self.http.post(self.shop.path + path, data=form))

    async def sign_in(self, *, name: UUID | None = None, pin: str | None = None) -> None:
        await self.open()
        await self.send("/sign-in", key=self.shop.key)
        await self.enter_pin(name=name, pin=pin)

    async def enter_pin(self, *, name: UUID | None = None, pin: str | None = None) -> None:
        await self.send("/pin", staff=str(name or self.shop.staff_id), pin=self.shop.pin if pin is None else pin)

    def _show(self, page: httpx.Response) -> None:
        self.status, self.html = page.status_code, page.text
        self.path = page.url.path.removeprefix(self.shop.path)
        self.hidden = dict(_HIDDEN.findall(page.text))


@asynccontextmanager
async def till_screen(shop: TillShop) -> AsyncIterator[TillScreen]:
    """A browser of its own. A loopback address, to which cookies are sent without TLS."""
    transport = httpx.ASGITransport(shop.api.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", follow_redirects=True) as http:
        yield TillScreen(http, shop)
