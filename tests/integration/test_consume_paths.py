"""A use of a coupon over a real socket: every form of the request gets the same answer, on both paths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from issuer.settings import Auth, Settings
from tests.support.api_process import ApiProcess
from tests.support.coupons import CONSUME, COUPON

CLIENT: Final = str(uuid4())
MINE: Final = {"client_id": CLIENT}


@pytest.fixture
def http(settings: Settings, tmp_path: Path) -> Iterator[httpx.Client]:
    """A process without keys. The coupon CASH allows a thousand uses, ONCE one per customer."""
    settings = settings.model_copy(update={"auth": Auth.OFF})
    with ApiProcess(settings, tmp_path) as process, httpx.Client(base_url=process.wait_until_ready().url) as client:
        for code, rules in (("CASH", "{}"), ("ONCE", '{"maxpercustomer": 1}')):
            form = {"code": code, "availability_count": "1000", "product_id": "hat", "rules": rules, **MINE}
            assert client.post(COUPON, data=form).status_code == 201
        yield client


def chunked(body: bytes) -> Iterator[bytes]:
    yield body


JSON: Final = b'{"product_id": "hat", "order_id": "7"}'
ASKED: Final[dict[str, dict[str, Any]]] = {
    "query alone": {"params": {"code": "cash", **MINE}},
    "form": {"params": {"code": "CASH"}, "data": MINE | {"product_id": "hat", "order_id": "o"}},
    "json": {"params": {"code": "CASH", **MINE}, "content": JSON},
    "json without query": {"json": {"code": "CASH", **MINE}},
    "without a client": {"params": {"code": "CASH"}},
    "multipart": {"params": {"code": "CASH"}, "files": {"client_id": (None, CLIENT)}},
    "chunked": {"params": {"code": "CASH", **MINE}, "content": [JSON]},
    "with fields and parameters of others": {
        "params": {"code": "CASH", "x": "1", **MINE},
        "content": b'{"y": {"z": 1}}',
    },
    "large": {"params": {"code": "CASH", **MINE}, "content": JSON + b" " * 5_000},
}


def test_every_form_of_a_request_uses_the_coupon(http: httpx.Client) -> None:
    for how, asked in ASKED.items():
        for path in (CONSUME, CONSUME[:-1]):
            response = http.post(path, **asked)
            assert response.status_code == 200, f"{how}: {response.text}"
            check_used(response.json())


def check_used(used: dict[str, Any]) -> None:
    assert used.pop("consumption_id")
    assert used == {
        "consumed": True, "code": "CASH", "product_id": "hat", "promo_type": None, "discount_fixed": None,
        "currency": None, "discount_variable": None,
    }  # fmt: skip


REFUSED: Final[dict[str, tuple[int, str, dict[str, Any], bytes]]] = {
    "nothing": (400, "invalid_request", {}, b""),
    "twice": (400, "invalid_request", {"code": "CASH", **MINE}, b"code=CASH"),
    "twice in json": (400, "unparsable_json", MINE, b'{"code": "CASH", "code": "CASH"}'),
    "customer": (400, "invalid_customer_id", {"code": "CASH", **MINE}, b"customer_id=7%00a"),
    "number": (400, "invalid_request", {"code": "CASH", **MINE}, b'{"product_id": 7}'),
    "not json": (400, "unparsable_json", {"code": "CASH", **MINE}, b"{"),
    "not utf-8": (400, "invalid_request", {"code": "CASH", **MINE}, b"product_id=%ff"),
    "unknown": (404, "coupon_not_found", {"code": "CASH0", **MINE}, b""),
    "unknown anywhere": (404, "coupon_not_found", {"code": "CASH0"}, b""),
    "another client": (404, "coupon_not_found", {"code": "CASH", "client_id": str(uuid4())}, b""),
    "wrong product": (409, "wrong_product", {"code": "CASH", **MINE}, b"product_id=shoe"),
    "long order": (400, "invalid_request", {"code": "CASH", **MINE}, b"order_id=" + b"x" * 256),
}


def test_refusals_are_the_same_on_both_paths(http: httpx.Client) -> None:
    for why, (status, code, params, body) in REFUSED.items():
        short = http.post(CONSUME, params=params, content=body)
        long = http.post(CONSUME, params=params, content=chunked(body))
        assert (short.status_code, short.json()["code"]) == (status, code), f"{why}: {short.text}"
        assert (long.status_code, long.json()) == (status, short.json()), why


def test_keys_and_limits_hold_across_both_paths(http: httpx.Client) -> None:
    customer = str(uuid4())
    body = b"customer_id=" + customer.encode()
    asked = {"params": {"code": "ONCE", **MINE}, "headers": {"Idempotency-Key": "order-1"}}
    first = http.post(CONSUME, content=body, **asked)  # type: ignore[arg-type]
    again = http.post(CONSUME, content=chunked(body), **asked)  # type: ignore[arg-type]
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    refused = http.post(CONSUME, params={"code": "ONCE", **MINE}, content=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "limit_reached")
    for content in (body, chunked(body)):
        bad = http.post(
            CONSUME, params={"code": "ONCE", **MINE}, content=content, headers={"Idempotency-Key": "x" * 256}
        )
        assert (bad.status_code, bad.json()["code"]) == (400, "invalid_idempotency_key")
    counted = http.get("/metrics").text
    assert 'issuer_consumptions_total{outcome="granted"} 1.0' in counted
    assert 'issuer_consumptions_total{outcome="replayed"} 1.0' in counted
