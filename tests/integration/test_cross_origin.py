"""ISSUER_CORS_ORIGINS: which pages of other sites may call what from a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from issuer.http.app import OPERATIONS
from issuer.http.auth import Access
from issuer.http.campaigns.routes import PATH as CAMPAIGNS
from issuer.http.coupons.consume_route import CONSUME_PATH
from issuer.http.cross_origin import ROUTES
from issuer.origins import parse_origins
from issuer.settings import Settings
from tests.support.api import REDEEM, Api, problem, running_app

SHOP: Final = "https://shop.example"
ASKED: Final = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


@pytest_asyncio.fixture
async def shop(settings: Settings) -> AsyncIterator[Api]:
    """The application, which pages of SHOP may call."""
    async with running_app(settings.model_copy(update={"cors_origins": f"{SHOP}, http://localhost:3000"})) as api:
        yield api


def readable(response: httpx.Response) -> bool:
    """Whether a page of SHOP can read the answer. None of them admits cookies."""
    assert "access-control-allow-credentials" not in response.headers
    allowed = response.headers.get("access-control-allow-origin")
    assert allowed in (None, SHOP)
    return allowed is not None


async def test_a_page_reads_the_answers_that_its_public_key_gets(shop: Api) -> None:
    public = await shop.key("public", client_id=uuid4())
    both = await shop.key("redeem", "admin")

    async def ask(method: str, path: str, key: Any = None, origin: str = SHOP, **more: Any) -> httpx.Response:
        return await shop.client.request(method, path, headers={**(key or {}), "origin": origin}, **more)

    for response in (
        await ask("GET", CONSUME_PATH, public, params={"code": "X"}),
        await ask("POST", CONSUME_PATH, public, json={"code": "X"}),
        # Refusals, too: a page has to show them.
        await ask("POST", CONSUME_PATH, json={"code": "X"}),
        await ask("PUT", CONSUME_PATH, public),
        await ask("POST", "/coupon.CouponService/IssueCoupon", json={"campaignId": str(uuid4())}),
        await ask("GET", f"{CAMPAIGNS}/{uuid4()}/events"),
    ):
        assert readable(response), response.request.url
        assert response.headers["vary"] == "Origin"
        assert "Retry-After" in response.headers["access-control-expose-headers"]
    for response in (
        # A key with more rights must not be in a page.
        await ask("GET", CONSUME_PATH, both, params={"code": "X"}),
        await ask("POST", CONSUME_PATH, both, json={"code": "X"}),
        # Another site, and none.
        await ask("POST", CONSUME_PATH, public, "https://shop.example.evil.example", json={"code": "X"}),
        await ask("POST", CONSUME_PATH, public, "null", json={"code": "X"}),
        await shop.client.post(CONSUME_PATH, headers=public, json={"code": "X"}),
    ):
        assert not readable(response)
        # A cache must not repeat this answer to the shop.
        assert response.headers["vary"] == "Origin"
    for path in (REDEEM, "/api/v1/batches", "/livez"):
        assert not readable(await ask("GET" if path == "/livez" else "POST", path, both, json={}))


async def test_a_browser_learns_what_it_may_send(shop: Api, capsys: pytest.CaptureFixture[str]) -> None:
    async def preflight(path: str, origin: str = SHOP) -> httpx.Response:
        return await shop.client.request("OPTIONS", path, headers={"origin": origin, **ASKED})

    for path in (CONSUME_PATH, "/coupon/consume", "/coupon.CouponService/IssueCoupon"):
        response = await preflight(path)
        assert (response.status_code, response.content) == (204, b"")
        assert readable(response)
        assert response.headers["access-control-allow-methods"] == "GET, POST"
        assert {"Authorization", "Idempotency-Key", "Content-Type"} <= set(
            response.headers["access-control-allow-headers"].split(", ")
        )
    response = await preflight(CONSUME_PATH, "https://evil.example")
    assert problem(response, 403)["code"] == "origin_refused"
    assert not readable(response)
    assert "reason=origin_refused" in capsys.readouterr().out.replace("'", "")
    # Without the headers of a preflight, and on other routes, it is a method like any other.
    problem(await shop.client.request("OPTIONS", CONSUME_PATH), 405)
    problem(await preflight("/api/v1/batches"), 405)


async def test_it_is_off_by_default(api: Api) -> None:
    headers = {"origin": SHOP, **ASKED}
    problem(await api.client.request("OPTIONS", CONSUME_PATH, headers=headers), 405)
    response = await api.client.post(CONSUME_PATH, headers=headers, json={"code": "X"})
    assert not {"access-control-allow-origin", "vary"} & response.headers.keys()


def test_every_route_of_public_keys_admits_other_origins() -> None:
    routes = {operation.path for operation in OPERATIONS if operation.access is Access.USE}
    assert routes
    assert [path for path in routes if ROUTES.fullmatch(path) is None] == []
    others = {operation.path for operation in OPERATIONS if operation.access not in (Access.USE, Access.PUBLIC)}
    assert [path for path in others if ROUTES.fullmatch(path)] == []


def test_origins_are_read_as_browsers_send_them() -> None:
    assert parse_origins("") == frozenset()
    assert parse_origins("HTTPS://Shop.Example:443/, http://localhost:3000 ,http://[::1]:80") == {
        "https://shop.example", "http://localhost:3000", "http://[::1]",
    }  # fmt: skip
    for text in ("*", "https://*.example", "shop.example", "https://shop.example/path", "null", "https://a@b.example"):
        with pytest.raises(ValueError, match="is no origin"):
            parse_origins(text)
