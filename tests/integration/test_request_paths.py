"""Paths as a proxy and the routes read them: an encoded slash separates nothing, and dots lead nowhere."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest

from tests.support.api import Api, problem
from tests.support.coupons import Till


async def call(api: Api, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    """Send the path as it stands: httpx would remove its dots."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path), "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "server": ("issuer", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    await api.app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1%2Fbatches", "/api%2fv1/batches", "/api/v1/batche%73", "/api/v1/batches%00", "/api/v1/batches%2F",
        "/api/v1/batches%5C", "//api/v1/batches", "/api//v1/batches", "/api/v1/batches/x%2F..%2Fy", "/API/v1/batches",
        "/livez%2F", "/livez%3F", "/livez%23",
    ],
)  # fmt: skip
@pytest.mark.asyncio(loop_scope="module")
async def test_an_encoded_path_is_another_path(shared_api: Api, path: str) -> None:
    assert (await call(shared_api, "GET", path, shared_api.admin)).status_code in (400, 404)


@pytest.mark.parametrize(
    "path", ["/api/v1%2Fcode/redeem", "/api/v1/code%2fredeem", "/coupon/consume%2F", "/coupon%2Fconsume/"]
)
@pytest.mark.asyncio(loop_scope="module")
async def test_an_encoded_slash_does_not_lead_to_a_hot_route(shared_api: Api, path: str) -> None:
    assert (await call(shared_api, "POST", path, shared_api.redeemer)).status_code in (404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/coupon/../api/v1/batches/", "/coupon/%2e%2e/x/", "/coupon/%2E./x/", "/coupon/.%2e%2Fx/", "/coupon/./x/",
        "/coupon/x/..%2F/", "/coupon/..%5cx/", "/./livez", "/x/../livez", "/livez/..", "/livez/.", "/coupon/%2e/",
    ],
)  # fmt: skip
@pytest.mark.asyncio(loop_scope="module")
async def test_a_segment_of_dots_is_a_400(shared_api: Api, path: str) -> None:
    for method in ("GET", "PUT", "POST"):
        problem(await call(shared_api, method, path, shared_api.admin), 400, "the path has . or .. as a segment")


@pytest.mark.parametrize("path", ["/coupon/100%/", "/coupon/%zz/", "/livez%", "/api/v1/codes/%2"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_percent_sign_that_encodes_nothing_is_a_400(shared_api: Api, path: str) -> None:
    problem(
        await call(shared_api, "GET", path, shared_api.admin), 400, "the path has a percent sign that encodes nothing"
    )


@pytest.mark.parametrize("code", ["A/B", "A\\B", "50%", "a.b", "...", "A%2FB", "ä ö", "A?B#C", "A.//.B", "consume/x"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_code_of_any_characters_has_a_path(shared_api: Api, shared_till: Till, code: str) -> None:
    if code == "...":
        code = "...x"
    await shared_till.make(code)
    encoded = "".join(f"%{byte:02X}" for byte in code.encode())
    for path in (f"/coupon/{encoded}/", f"/coupon/{encoded.lower()}/"):
        response = await call(shared_api, "PUT", path, shared_till.admin)
        assert (response.status_code, response.json()["code"]) == (200, code)
    if "/" in code and "%" not in code:
        assert (await call(shared_api, "PUT", f"/coupon/{code}/", shared_till.admin)).status_code == 200
    batch, _ = await shared_api.batch(code)
    found = (await call(shared_api, "GET", f"/api/v1/codes/{encoded}", shared_api.admin)).json()
    assert [place["batch_id"] for place in found["items"]] == [str(batch)]
    assert (await call(shared_api, "DELETE", f"/coupon/{encoded}/", shared_till.admin)).json()["deleted"] is True


async def test_a_code_that_is_not_utf_8_is_a_400(api: Api, till: Till) -> None:
    for path in ("/coupon/%FF/", "/coupon/%C3/", "/coupon/%ED%A0%80/", "/coupon/%C0%AF/"):
        problem(await call(api, "PUT", path, till.admin), 400, "the path is not UTF-8")
    problem(await call(api, "GET", "/api/v1/codes/%FF", api.admin), 400, "the path is not UTF-8")


@pytest.mark.parametrize("code", ["..", "../x", "x/..", "x/../y", "./x", "..\\x"])
@pytest.mark.asyncio(loop_scope="module")
async def test_a_code_has_no_segment_of_dots(shared_api: Api, shared_till: Till, code: str) -> None:
    problem(
        await shared_api.client.post(
            "/coupon/", json={"code": code, "availability_count": 1}, headers=shared_till.admin
        ),
        400,
    )


async def test_the_path_is_checked_before_the_key(api: Api) -> None:
    problem(await call(api, "GET", f"/api/v1/batches/{uuid4()}/..", {}), 400)
