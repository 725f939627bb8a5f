"""Headers of every answer of a real process: no cache keeps a code, no browser takes an answer for another type."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from issuer.http.pages.assets import KEPT
from issuer.settings import Settings
from tests.support.api_process import ApiProcess
from tests.support.keys import make_key
from tests.support.raw_http import read_all, status_of


@pytest.fixture
def api(settings: Settings, tmp_path: Path) -> Iterator[ApiProcess]:
    with ApiProcess(settings, tmp_path) as running:
        yield running.wait_until_ready()


def check(headers: httpx.Headers) -> None:
    for name, value in (("cache-control", "no-store"), ("x-content-type-options", "nosniff")):
        assert headers.get_list(name) == [value]


def test_every_answer_is_kept_by_no_cache(api: ApiProcess, settings: Settings) -> None:
    key = {"Authorization": f"Bearer {asyncio.run(make_key(settings, 'redeem', 'admin'))}"}
    with httpx.Client(base_url=api.url, headers=key) as http:
        client = str(uuid4())
        files = {"file": ("codes.csv", f"client_id,code\n{client},A\n")}
        batch = http.post("/api/v1/codes/upload", files=files, data={"batch_name": "Summer"}).json()["batch_id"]
        body = {"batchid": batch, "clientid": client, "customerid": str(uuid4())}
        campaign = {"name": "Night", "total": 1, "starts_at": "2020-01-01T00:00:00Z", "public": True}
        created = http.post("/api/v1/campaigns", json=campaign)
        page = f"/c/{created.json()['id']}"
        answers = {
            "a code on the fast path": (200, http.post("/api/v1/code/redeem", json=body)),
            "a refusal on the fast path": (404, http.post("/api/v1/code/redeem", json=body)),
            "no key": (401, http.post("/api/v1/code/redeem", json=body, headers={"Authorization": "x"})),
            "a refusal on the ASGI path": (404, http.post("/api/v1/code/redeem?a", json=body)),
            "a new campaign": (201, created),
            "a list": (200, http.get("/api/v1/batches?limit=1")),
            "a call of the coupon service": (200, http.post("/coupon.CouponService/GetCampaign", json={
                "campaignId": created.json()["id"],
            })),
            "a report": (200, http.get("/api/v1/reports/redemptions")),
            "a page": (200, http.get(page)),
            "the docs": (200, http.get("/docs")),
            "the document": (200, http.get("/openapi.json")),
            "health": (200, http.get("/readyz")),
            "metrics": (200, http.get("/metrics")),
            "no such path": (404, http.get("/nothing")),
            "no such method": (405, http.put("/livez")),
            "a faulty path": (400, http.get("/livez%")),
        }  # fmt: skip
        for what, (status, answer) in answers.items():
            assert answer.status_code == status, what
            check(answer.headers)
        asset = http.get(answers["the docs"][1].text.partition('<script src="')[2].partition('"')[0])
        assert asset.headers.get_list("cache-control") == [KEPT]
        assert asset.headers.get_list("x-content-type-options") == ["nosniff"]
        for what in ("a page", "the docs"):
            headers = answers[what][1].headers
            assert headers["referrer-policy"] == "no-referrer"
            assert "unsafe" not in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
        with http.stream("GET", f"{page.replace('/c/', '/api/v1/campaigns/')}/events") as events:
            check(events.headers)


def test_a_refusal_at_the_socket_is_kept_by_no_cache(api: ApiProcess) -> None:
    with socket.create_connection(api.listener.getsockname()[:2], timeout=30) as connection:
        connection.sendall(b"GET / HTTP/9.9\r\nHost: x\r\n\r\n")
        answer = read_all(connection)
    assert status_of(answer) == 505
    lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    check(httpx.Headers([(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]))
