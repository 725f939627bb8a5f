"""Rate limits: four API processes on one socket accept as many requests as one bucket would."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from issuer.settings import Settings
from tests.support.crowd import tally
from tests.support.loading import A, codes
from tests.support.service import API_PROCESSES, Service, wishes

RATE_PER_S = 300
BURST = 500
FAILED_LOOKUPS = 1_000
AT_ONCE = 50
"""Fewer than the connections: what waits for one makes httpx look at all that wait, again and again."""
LIMITED = "429 too many requests"


@pytest.mark.long
async def test_requests_are_accepted_at_the_configured_rate(settings: Settings, tmp_path: Path) -> None:
    limit = f"{RATE_PER_S}/s,burst={BURST}"
    with Service(settings, tmp_path, ISSUER_RATE_LIMIT=limit, ISSUER_RATE_LIMIT_IP="off") as service:
        batch = await service.preload("limited", codes("L", 20_000))
        async with service.crowd(connections=400) as crowd:
            # Which process accepts a connection is the kernel's choice; several must have accepted some.
            assert len(service.accepted(crowd.ports())) > 1
            counts: Counter[str] = Counter()
            begun = time.monotonic()
            while counts["200"] < BURST + 3 * RATE_PER_S:
                counts += tally(await crowd.ask(wishes(2_000, batch, [A])))
            took_s = time.monotonic() - begun
    print(f"{limit}, {API_PROCESSES} processes: {dict(counts)} in {took_s:.2f} s")
    assert counts.keys() == {"200", LIMITED}
    allowed = BURST + RATE_PER_S * took_s
    assert counts["200"] <= allowed


@pytest.mark.long
async def test_failed_lookups_are_limited_over_all_processes(settings: Settings, tmp_path: Path) -> None:
    """Half of the codes are validated, half used; soon four processes refuse all look-ups, also of an existing code."""
    with Service(settings, tmp_path, ISSUER_FAILED_LOOKUP_LIMIT="10/h") as service:
        admin, till = [await _headers(service, scope) for scope in ("admin", "redeem")]
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=60) as client:
            await _until_known(client, admin, till)
            made = await client.post("/coupon/", json={"code": "RIGHT20", "availability_count": 5}, headers=admin)
            assert made.status_code == 201, made.text

            async def look_up(number: int, code: str) -> str:
                method = "POST" if number % 2 else "GET"
                response = await client.request(method, "/coupon/consume/", params={"code": code}, headers=till)
                body = response.json()
                return f"{response.status_code} {body.get('reason') or body.get('error')}"

            begun = time.monotonic()
            answers: Counter[str] = Counter()
            for start in range(0, FAILED_LOOKUPS, AT_ONCE):
                wrong = [look_up(number, f"WRONG{number:05d}") for number in range(start, start + AT_ONCE)]
                answers += Counter(await asyncio.gather(*wrong))
            took_s = time.monotonic() - begun
            print(f"{FAILED_LOOKUPS} failed lookups: {dict(answers)} in {took_s:.1f} s")
            answered = answers.pop("200 no coupon found", 0) + answers.pop("404 no coupon found", 0)
            assert answers == {"429 too many unknown codes": FAILED_LOOKUPS - answered}
            # ISSUER_FAILED_LOOKUP_LIMIT is 10/h: ten, and one more every six minutes.
            assert answered <= 10 + took_s / 360
            assert {await look_up(number, "RIGHT20") for number in range(20)} == {"429 too many unknown codes"}


async def _headers(service: Service, scope: str) -> dict[str, str]:
    created = await service.issuer("keys", "create", "--name", scope, "--scope", scope, "--client", str(A), "--json")
    return {"Authorization": f"Bearer {json.loads(created.stdout)['secret']}"}


async def _until_known(client: httpx.AsyncClient, *keys: dict[str, str]) -> None:
    """Wait until every process has loaded the keys: none of 40 answers is a 401."""
    async with asyncio.timeout(30):
        for headers in keys:
            while any([(await client.get("/metrics", headers=headers)).status_code == 401 for _ in range(40)]):
                await asyncio.sleep(0.05)
