"""Campaigns on four API processes: the example's two crowds, a killed process, no code before the start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_json_codec
from connectrpc.errors import ConnectError
from google.protobuf.timestamp_pb2 import Timestamp
from pyqwest import Client, HTTPTransport

from issuer.http.rpc.coupon.coupon_connect import CouponServiceClient
from issuer.http.rpc.coupon.coupon_pb2 import CreateCampaignRequest, IssueCouponRequest
from tests.support.service import Service

pytestmark = pytest.mark.xdist_group("service")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("requests", [400, pytest.param(10_000, marks=(pytest.mark.long, pytest.mark.minutes))])
@pytest.mark.parametrize("options", [[], pytest.param(["--binary"], marks=pytest.mark.long)], ids=["json", "binary"])
async def test_the_flash_sale_is_exact(service: Service, options: list[str], requests: int) -> None:
    command = [sys.executable, "examples/flash_sale.py", "--url", service.url, "--key", service.api_key, *options]
    command += ["--requests", str(requests), "--connections", str(requests // 10)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    half = requests // 2
    assert f"{requests:,} requests for 1: 1 codes (1 distinct), {requests - 1:,} sold out, 0 failed" in done.stdout
    assert f"{half:,} requests for 50: 50 codes (50 distinct), {half - 50:,} sold out, 0 failed" in done.stdout
    await service.reconcile()


async def create(service: Service, client: CouponServiceClient, total: int, start_ms: int = 1_000) -> str:
    start = Timestamp(seconds=start_ms // 1000, nanos=start_ms % 1000 * 1_000_000)
    request = CreateCampaignRequest(name="Sale", total=total, start_time=start)
    return (await client.create_campaign(request, headers=headers_of(service))).campaign_id


def headers_of(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.api_key}"}


@asynccontextmanager
async def many_connections(service: Service, count: int) -> AsyncIterator[CouponServiceClient]:
    """Yield a JSON client with that many connections."""
    transport = HTTPTransport(max_connections_per_address=count, pool_max_idle_per_host=count)
    codec = google_protobuf_json_codec()
    async with CouponServiceClient(
        service.url, codec=codec, send_compression=None, timeout_ms=60_000, http_client=Client(transport)
    ) as client:
        yield client


@pytest.mark.long
@pytest.mark.parametrize("requests", [1_000, pytest.param(5_000, marks=pytest.mark.long)])
async def test_a_killed_api_process_loses_answers_but_no_codes(service: Service, requests: int) -> None:
    """Customers see at most 50 codes, because answers are lost with the process; the ledger has exactly 50."""
    connections = requests // 10
    async with many_connections(service, connections) as client:
        campaign, headers = await create(service, client, 50), headers_of(service)
        seen: list[str] = []
        failed: list[str] = []
        # One request a connection. The client sends outside this loop: without the bound all requests could be answered
        # before the loop sees the first code, and the process would be suspended with nothing left to answer.
        in_flight = asyncio.Semaphore(connections)
        processes = psutil.Process(service.pid_of_serve).children()
        killed: list[psutil.Process] = []

        async def ask() -> None:
            try:
                async with in_flight:
                    answer = await client.issue_coupon(IssueCouponRequest(campaign_id=campaign), headers=headers)
            except (ConnectError, OSError) as error:
                failed.append(f"{type(error).__name__}: {error}")
                return
            if answer.code:
                # Suspend a process at once, because the crowd is faster than this loop; kill it when all others are
                # answered. The kernel spreads the connections unevenly: take a process that has some.
                if not seen:
                    killed.append(max(processes, key=lambda process: len(process.net_connections("tcp"))))
                    killed[0].suspend()
                seen.append(answer.code)
            else:
                assert answer.error == "sold out"

        asking = [asyncio.create_task(ask()) for _ in range(requests)]
        async with asyncio.timeout(60):
            answered = -1
            while not seen or answered != (answered := sum(task.done() for task in asking)):
                await asyncio.sleep(0.5)
        killed[0].kill()
        await asyncio.gather(*asking)
        print(f"{len(seen)} codes seen, {len(failed)} requests without an answer, such as {failed[:1]}")
    assert failed
    assert len(seen) == len(set(seen)) <= 50
    rows = await service.ledger(UUID(campaign), 50)
    assert len(rows) == 50
    assert set(seen) <= {row["code"] for row in rows}
    assert all(row["customer_id"] is None for row in rows)
    await service.reconcile()


async def create_in_time(service: Service, client: CouponServiceClient) -> tuple[str, int]:
    """Create a campaign that starts soon, but after the first requests of the clients; return it and its start."""
    lead_ms = 3_000
    while True:
        start_ms = int(time.time() * 1000) + lead_ms
        campaign = await create(service, client, 1_000, start_ms)
        if time.time() * 1000 < start_ms - lead_ms / 2:
            return campaign, start_ms
        lead_ms *= 2


@pytest.mark.long
async def test_no_code_before_the_start(service: Service) -> None:
    """50 clients send requests all the time. The ledger has the time of each code by Redis' clock."""
    answers: Counter[str] = Counter()
    async with many_connections(service, 50) as client:
        campaign, start_ms = await create_in_time(service, client)
        headers = headers_of(service)

        async def ask() -> None:
            while True:
                try:
                    answer = await client.issue_coupon(IssueCouponRequest(campaign_id=campaign), headers=headers)
                except ConnectError as error:
                    # A process of a busy machine may not be ready for a moment.
                    if error.code is not Code.UNAVAILABLE:
                        raise
                    continue
                answers[answer.error] += 1
                if answer.error != "not started":
                    return

        await asyncio.gather(*(ask() for _ in range(50)))
    rows = await service.ledger(UUID(campaign), 50)
    first_ms = min(round(row["redeemed_at"].timestamp() * 1000) for row in rows)
    print(f"answers {dict(answers)}; the first code {first_ms - start_ms} ms after the start")
    assert answers.keys() == {"not started", ""}
    assert len(rows) == 50
    assert first_ms >= start_ms
