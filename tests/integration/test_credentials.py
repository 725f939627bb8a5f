"""Credentials and the order of refusals, the same on every kind of route."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from typing import Final

import httpx

from issuer.settings import Settings
from tests.support.api import REDEEM, Api, running_app
from tests.support.coupon_service import SERVICE
from tests.support.coupons import CONSUME

JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Route:
    """A request that is refused for what it asks only after its credentials are accepted."""

    method: str
    path: str
    body: bytes = b"{}"
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)


ROUTES: Final = {
    "redeem": Route("POST", REDEEM),
    "consume": Route("POST", CONSUME),
    "consume by a multipart form": Route(
        "POST", CONSUME, b"--b--\r\n", ((b"content-type", b"multipart/form-data; boundary=b"),)
    ),
    "look at a coupon": Route("GET", CONSUME),
    "IssueCoupon": Route("POST", f"{SERVICE}/IssueCoupon"),
    "IssueCoupon by the library": Route(
        "POST", f"{SERVICE}/IssueCoupon", b"{}", ((b"content-type", b"application/json; charset=UTF-8"),)
    ),
    "GetCampaign": Route("POST", f"{SERVICE}/GetCampaign"),
    "create a batch": Route("POST", "/api/v1/batches"),
    "list batches": Route("GET", "/api/v1/batches?limit=0"),
    "create a coupon": Route("POST", "/coupon/"),
}


CONNECT: Final = {"IssueCoupon", "IssueCoupon by the library", "GetCampaign"}
"""Routes whose failures are those of the Connect protocol."""


async def new_secret(api: Api) -> bytes:
    """Return a key with the scopes of all routes above."""
    headers = await api.key("redeem", "admin")
    return headers["Authorization"].removeprefix("Bearer ").encode()


async def send(api: Api, route: Route, *headers: tuple[bytes, bytes]) -> httpx.Response:
    return await api.client.request(route.method, route.path, content=route.body, headers=[*route.headers, *headers])


def authorization(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", value) for value in values]


def shown(response: httpx.Response) -> tuple[int, bytes]:
    return response.status_code, response.content


async def test_a_key_is_accepted_with_bearer_in_any_case_and_bare(api: Api) -> None:
    secret = await new_secret(api)
    for name, route in ROUTES.items():
        expected = shown(await send(api, route, *authorization(b"Bearer " + secret)))
        assert expected[0] not in (401, 403, 500), name
        for value in (b"bearer " + secret, b"BEARER " + secret, b"bEaReR  " + secret, secret):
            assert shown(await send(api, route, *authorization(value))) == expected, (name, value)


async def test_any_other_scheme_and_any_other_value_is_a_401(api: Api) -> None:
    secret = await new_secret(api)
    values = (
        b"Basic " + b64encode(b":" + secret), b"Basic " + secret, b"Token " + secret, b"Bearer", b"Bearer ", b"",
        b"Bearer: " + secret, b"Bearer" + secret, b"Bearer " + secret + b", Bearer " + secret, b"Bearer isk_no",
        # A no-break space and bytes that are not UTF-8 are part of the value.
        b"Bearer \xa0" + secret, b"Bearer " + secret + b"\xa0", b"\xa0" + secret, b"Bearer \xc2\xa0" + secret, b"\xff",
    )  # fmt: skip
    for name, route in ROUTES.items():
        for value in values:
            response = await send(api, route, *authorization(value))
            assert response.status_code == 401, (name, value)
            assert response.headers["www-authenticate"].startswith("Bearer"), (name, value)


async def test_two_authorization_headers_are_a_400(api: Api) -> None:
    good = b"Bearer " + await new_secret(api)
    for name, route in ROUTES.items():
        for values in ((good, good), (good, b""), (b"Basic eA==", good)):
            response = await send(api, route, *authorization(*values))
            code = "invalid_argument" if name in CONNECT else "multiple_credentials"
            assert (response.status_code, response.json()["code"]) == (400, code), (name, values)


async def test_a_header_that_is_not_utf_8_has_no_effect(api: Api) -> None:
    good = authorization(b"Bearer " + await new_secret(api))
    for name, route in ROUTES.items():
        expected = shown(await send(api, route, *good))
        assert shown(await send(api, route, *good, (b"x-odd", b"\xff"), (b"cookie", b"a=\xa0\xfe"))) == expected, name


async def test_refusals_come_in_the_documented_order(settings: Settings) -> None:
    """429 before 401, 401 before 413, 413 before 400."""
    limited = settings.model_copy(update={"rate_limit_ip": "500/d,burst=500", "max_body_bytes": 1_024})
    async with running_app(limited) as api:
        secret = await new_secret(api)
        good, bad = authorization(b"Bearer " + secret), authorization(b"Bearer isk_no")
        for name, route in ROUTES.items():
            if route.method == "GET":
                continue
            large = replace(route, body=b"{" + b" " * 2_000)
            assert (await send(api, large, *bad)).status_code == 401, name
            # RESOURCE_EXHAUSTED is what the Connect protocol has instead of a 413.
            assert (await send(api, large, *good)).status_code == (429 if name in CONNECT else 413), name
            broken = replace(route, body=b"{")
            assert (await send(api, broken, *bad)).status_code == 401, name
            assert (await send(api, broken, *good)).status_code == 400, name
        while (await send(api, ROUTES["redeem"], *bad)).status_code != 429:
            pass
        for name, route in ROUTES.items():
            large = replace(route, body=b"{" + b" " * 2_000)
            for headers in (good, bad, authorization(b"x", b"y")):
                assert (await send(api, large, *headers)).status_code == 429, name
