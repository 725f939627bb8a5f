"""The security log: who was refused and why, on both paths, without a secret, and bounded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from issuer.access.api_keys import create_key
from issuer.http.problems.problem import ProblemError
from issuer.http.security_log import LINES_PER_ADDRESS, MAX_LINES, MAX_SUMMARIES, SecurityLog
from issuer.settings import Settings
from issuer.storage.postgres import close_pool, connect_pool
from tests.support.api import REDEEM, Api
from tests.support.api_process import ApiProcess
from tests.support.coupon_service import SERVICE
from tests.support.coupons import CONSUME

UNKNOWN_SECRET = "isk_" + "unknown0" * 5
CODE = "SECRETCODE1"
CLIENT = UUID(int=7)


@dataclass(frozen=True, slots=True)
class Secrets:
    redeem: str
    public: str
    bound_admin: str


@pytest_asyncio.fixture
async def secrets(settings: Settings) -> AsyncIterator[Secrets]:
    postgres = await connect_pool(settings, size=1)

    async def secret(name: str, *scopes: str, client: UUID | None = None) -> str:
        return (await create_key(postgres, name=name, scopes=scopes, client_id=client, actor="test"))[1]

    yield Secrets(
        await secret("till 7", "redeem", client=CLIENT),
        await secret("app", "public", client=CLIENT),
        await secret("tenant", "admin", client=CLIENT),
    )
    await close_pool(postgres)


@pytest.fixture
def process(settings: Settings, secrets: Secrets, tmp_path: Path) -> Iterator[ApiProcess]:
    with ApiProcess(
        settings, tmp_path, ISSUER_TRUSTED_PROXIES="127.0.0.1", ISSUER_FAILED_LOOKUP_LIMIT="1/h"
    ) as running:
        running.wait_until_ready()
        yield running


def security_lines(process: ApiProcess) -> list[dict[str, Any]]:
    """Stop the process, which writes what it only counted, and return the lines."""
    process.stop()
    lines = [json.loads(line) for line in process.log.read_text().splitlines()]
    return [line for line in lines if line.get("category") == "security"]


def test_refusals_on_the_fast_path_and_on_the_asgi_path_are_logged(process: ApiProcess, secrets: Secrets) -> None:
    body = {"batchid": str(uuid4()), "clientid": str(uuid4()), "customerid": str(uuid4())}
    # A chunked body takes the ASGI path.
    chunked = {"content": iter([json.dumps(body).encode()]), "headers": {"content-type": "application/json"}}
    sent: list[tuple[str, str, str, dict[str, Any], int]] = [
        ("", "POST", REDEEM, {"json": body}, 401),
        (UNKNOWN_SECRET, "POST", REDEEM, {"json": body}, 401),
        (UNKNOWN_SECRET, "POST", REDEEM, chunked, 401),
        (secrets.public, "POST", REDEEM, {"json": body}, 403),
        # Answered as if there were no code; the log has what it is.
        (secrets.redeem, "POST", REDEEM, {"json": body}, 404),
        (UNKNOWN_SECRET, "GET", f"/api/v1/codes/{CODE}", {}, 401),
        (secrets.redeem, "GET", f"/api/v1/codes/{CODE}", {}, 403),
        (secrets.bound_admin, "GET", "/api/v1/audit", {}, 403),
        (secrets.public, "POST", CONSUME, {"json": {"code": CODE}}, 404),
        (secrets.public, "POST", CONSUME, {"json": {"code": CODE}}, 429),
        (secrets.public, "GET", f"{CONSUME}?code={CODE}", {}, 429),
        (UNKNOWN_SECRET, "POST", f"{SERVICE}/IssueCoupon", {"json": {"campaignId": str(uuid4())}}, 401),
        ("", "POST", f"{SERVICE}/IssueCoupon", {"json": {"campaignId": str(uuid4())}}, 401),
        (UNKNOWN_SECRET, "POST", f"{SERVICE}/GetCampaign", {"json": {"campaignId": str(uuid4())}}, 401),
        (secrets.redeem, "POST", f"{SERVICE}/CreateCampaign", {"json": {"name": "x"}}, 403),
    ]
    with httpx.Client(base_url=process.url) as client:
        for number, (secret, method, path, request, status) in enumerate(sent):
            headers = {**request.pop("headers", {}), "x-forwarded-for": f"203.0.113.{number // 4}"}
            if secret:
                headers["authorization"] = f"Bearer {secret}"
            response = client.request(method, path, headers=headers, **request)
            assert response.status_code == status, (path, response.text)
    lines = security_lines(process)
    names = {secrets.redeem: "till 7", secrets.public: "app", secrets.bound_admin: "tenant"}
    codes = "/api/v1/codes/{code:code}"
    assert [
        (line["status"], line["reason"], line["method"], line["route"], line["address"],
         line.get("key_name") or line["sent_key"])
        for line in lines
    ] == [
        (401, "unauthorized", "POST", REDEEM, "203.0.113.0", False),
        (401, "unauthorized", "POST", REDEEM, "203.0.113.0", True),
        (401, "unauthorized", "POST", REDEEM, "203.0.113.0", True),
        (403, "scope_missing", "POST", REDEEM, "203.0.113.0", names[secrets.public]),
        (403, "bound_key", "POST", REDEEM, "203.0.113.1", names[secrets.redeem]),
        (401, "unauthorized", "GET", codes, "203.0.113.1", True),
        (403, "scope_missing", "GET", codes, "203.0.113.1", names[secrets.redeem]),
        (403, "bound_key", "GET", "/api/v1/audit", "203.0.113.1", names[secrets.bound_admin]),
        (429, "too_many_failed_lookups", "POST", CONSUME, "203.0.113.2", names[secrets.public]),
        (429, "too_many_failed_lookups", "GET", CONSUME, "203.0.113.2", names[secrets.public]),
        (401, "unauthorized", "POST", f"{SERVICE}/IssueCoupon", "203.0.113.2", True),
        (401, "unauthorized", "POST", f"{SERVICE}/IssueCoupon", "203.0.113.3", False),
        (401, "unauthorized", "POST", f"{SERVICE}/GetCampaign", "203.0.113.3", True),
        (403, "scope_missing", "POST", f"{SERVICE}/CreateCampaign", "203.0.113.3", names[secrets.redeem]),
    ]  # fmt: skip
    log = process.log.read_text()
    for secret in (UNKNOWN_SECRET, secrets.redeem, secrets.public, secrets.bound_admin, CODE, body["customerid"]):
        assert secret not in log
    assert {line["level"] for line in lines} == {"warning"}


def test_what_one_address_can_write_is_bounded(process: ApiProcess) -> None:
    with httpx.Client(base_url=process.url, headers={"authorization": f"Bearer {UNKNOWN_SECRET}"}) as client:
        for _ in range(100):
            assert client.get("/api/v1/batches").status_code == 401
            assert client.post(REDEEM, json={}).status_code == 401
    lines = security_lines(process)
    single = [line for line in lines if line["event"] == "request refused"]
    rest = [line for line in lines if line["event"] == "more requests refused"]
    # A slow machine may need several periods; each request is in a line or in a sum all the same.
    assert len(single) + sum(line["count"] for line in rest) == 200
    assert len(single) <= LINES_PER_ADDRESS * (len(rest) + 1)
    assert {line["address"] for line in rest} == {"127.0.0.1"}


async def test_answers_about_a_code_or_a_batch_are_no_security_events(api: Api) -> None:
    batch, client = await api.batch("A", "B", rules='{"maxpercustomer":1}')
    customer = uuid4()
    with capture_logs() as logged:
        assert (await api.redeem(batch, client, customer)).status_code == 200
        refused = await api.redeem(batch, client, customer)
        assert (refused.status_code, refused.json()["code"]) == (403, "limit_reached")
        assert (await api.redeem(uuid4(), client, customer)).status_code == 404
        assert (await api.get("/api/v1/batches/nothing")).status_code == 400
        api.services.security.end_period()
    assert [line for line in logged if line.get("category") == "security"] == []


async def test_many_addresses_are_bounded_too_and_every_refusal_is_counted() -> None:
    security = SecurityLog(lambda peer, headers: str(peer))
    problem = ProblemError(401, "no", "unauthorized")
    with capture_logs() as logged:
        for number in range(300):
            for _ in range(2 + (number == 299)):
                security.refused(problem, "GET", "/x", f"198.51.100.{number}", (), None)
        security.end_period()
    single = [line for line in logged if line["event"] == "request refused"]
    sums = [line for line in logged if line["event"] == "more requests refused"]
    (others,) = (line for line in logged if line["event"] == "more requests refused, of many addresses")
    assert (len(single), len(sums)) == (MAX_LINES, MAX_SUMMARIES)
    # The address with the most refusals comes first.
    assert (sums[0]["address"], sums[0]["count"]) == ("198.51.100.299", 3)
    assert len(single) + sum(line["count"] for line in [*sums, others]) == 601
    with capture_logs() as logged:
        security.refused(problem, "GET", "/x", "198.51.100.1", (), None)
        security.end_period()
        security.end_period()
    assert [line["event"] for line in logged] == ["request refused"]


async def test_addresses_beyond_the_table_are_counted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("issuer.http.security_log.MAX_ADDRESSES", 3)
    security = SecurityLog(lambda peer, headers: str(peer))
    with capture_logs() as logged:
        for number in range(5):
            security.refused(ProblemError(429, "no", "rate_limited"), "GET", "/x", str(number), (), None)
        security.end_period()
    assert [line.get("count") for line in logged] == [None, None, None, 2]
