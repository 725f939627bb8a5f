"""Campaigns on four API processes: the example's two crowds, a process that is killed, a start nobody is ahead of."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest

from tests.acceptance.service import Service
from tests.acceptance.test_exactness import settings_of
from tests.conftest import clone_database
from tests.servers import PostgresServer, RedisServer

ROOT = Path(__file__).parents[2]
SERVICE = "/coupon.CouponService"


@pytest.fixture(scope="module")
def service(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    settings = settings_of(redis_server, clone_database(postgres_server))
    with Service(settings, tmp_path_factory.mktemp("campaigns"), ISSUER_AUTH="off") as started:
        yield started


@pytest.mark.parametrize("options", [[], ["--binary"]], ids=["json", "binary"])
async def test_the_flash_sale_is_exact(service: Service, options: list[str]) -> None:
    command = [sys.executable, "examples/flash_sale.py", "--url", service.url, *options]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10,000 ask for 1: 1 codes (1 different), 9,999 sold out, 0 failed" in done.stdout
    assert "5,000 ask for 50: 50 codes (50 different), 4,950 sold out, 0 failed" in done.stdout
    await service.reconcile()


async def create(http: httpx.AsyncClient, total: int, start: str = "2020-01-01T00:00:00Z") -> str:
    body = {"name": "Sale", "total": total, "startTime": start}
    response = await http.post(f"{SERVICE}/CreateCampaign", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return str(response.json()["campaignId"])


async def test_an_api_process_is_killed_meanwhile(service: Service) -> None:
    """At most 50 are seen, since answers go with the process; exactly 50 are in the ledger when the crowd has gone."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=30) as http:
        campaign = await create(http, 50)
        seen: list[str] = []
        failed = 0
        half = asyncio.Event()

        async def ask() -> None:
            nonlocal failed
            try:
                said = (await http.post(f"{SERVICE}/IssueCoupon", json={"campaignId": campaign})).json()
            except httpx.TransportError:
                failed += 1
                half.set()
                return
            if said["code"]:
                seen.append(said["code"])
                if len(seen) >= 10:
                    half.set()
            else:
                assert said["error"] == "sold out"

        asking = [asyncio.create_task(ask()) for _ in range(5_000)]
        await half.wait()
        victim = psutil.Process(service.pid_of_serve).children()[0]
        victim.send_signal(signal.SIGKILL)
        await asyncio.gather(*asking)
        print(f"{len(seen)} codes seen, {failed} requests without an answer")
        assert failed
        assert len(seen) == len(set(seen)) <= 50
        rows = await service.ledger(UUID(campaign), 50)
        assert len(rows) == 50
        assert set(seen) <= {row["code"] for row in rows}
        assert all(row["customer_id"] is None for row in rows)
        await service.reconcile()


async def test_no_code_before_the_start(service: Service) -> None:
    """200 clients ask all the time. What was issued, and when, is told by Redis' clock, in the ledger."""
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=30) as http:
        start_ms = int(time.time() * 1000) + 3_000
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start_ms // 1000)) + f".{start_ms % 1000:03d}Z"
        campaign = await create(http, 1_000, start)
        told: dict[str, int] = {}

        async def ask() -> None:
            while True:
                said: dict[str, Any] = (await http.post(f"{SERVICE}/IssueCoupon", json={"campaignId": campaign})).json()
                told[said["error"]] = told.get(said["error"], 0) + 1
                if said["error"] != "not started":
                    return

        await asyncio.gather(*(ask() for _ in range(200)))
    rows = await service.ledger(UUID(campaign), 200)
    first_ms = min(round(row["redeemed_at"].timestamp() * 1000) for row in rows)
    print(f"told {told}; the first code {first_ms - start_ms} ms after the start")
    assert told.keys() == {"not started", ""}
    assert len(rows) == 200
    assert 0 <= first_ms - start_ms < 1_000
