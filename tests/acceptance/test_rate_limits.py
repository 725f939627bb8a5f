"""Rate limits as operators set them: four API processes behind one socket let in what one bucket would."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from uuid import UUID, uuid4

import httpx

from issuer.settings import Settings
from tests.acceptance.crowd import tally
from tests.acceptance.service import API_PROCESSES, Service, wishes
from tests.loading import A, codes

RATE_PER_S = 300
BURST = 500
LIMITED = "429 too many requests"
GUESSES = 10_000


async def test_a_crowd_is_let_in_at_the_rate_that_was_set(settings: Settings, tmp_path: Path) -> None:
    limit = f"{RATE_PER_S}/s,burst={BURST}"
    with Service(settings, tmp_path, ISSUER_RATE_LIMIT=limit, ISSUER_RATE_LIMIT_IP="off") as service:
        batch = await service.preload("limited", codes("L", 20_000))
        async with service.crowd(connections=400) as crowd:
            assert len(service.accepted(crowd.ports())) == API_PROCESSES
            counts: Counter[str] = Counter()
            begun = time.monotonic()
            while time.monotonic() < begun + 4:
                counts += tally(await crowd.ask(wishes(2_000, batch, [A])))
            took_s = time.monotonic() - begun
    print(f"{limit}, {API_PROCESSES} processes: {dict(counts)} in {took_s:.2f} s")
    assert counts.keys() == {"200", LIMITED}
    allowed = BURST + RATE_PER_S * took_s
    assert 0.9 * allowed <= counts["200"] <= allowed


async def test_of_ten_thousand_wrong_codes_few_are_answered(settings: Settings, tmp_path: Path) -> None:
    with Service(settings, tmp_path) as service:
        batch = await service.preload("guessed", codes("G", 10))
        [row] = await service.sql("SELECT code FROM codes WHERE batch_id = $1 AND seq = 1", batch)
        created = await service.issuer(
            "keys", "create", "--name", "x", "--scope", "admin", "--client", str(A), "--json"
        )
        headers = {"Authorization": f"Bearer {json.loads(created.stdout)['secret']}"}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        async with httpx.AsyncClient(base_url=service.url, headers=headers, limits=limits, timeout=60) as client:
            await _until_known(client)

            async def guess(code: object) -> int:
                return (await client.get(f"/api/v1/codes/{code}")).status_code

            begun = time.monotonic()
            statuses: Counter[int] = Counter()
            for _ in range(0, GUESSES, 1_000):
                statuses += Counter(await asyncio.gather(*(guess(uuid4()) for _ in range(1_000))))
            took_s = time.monotonic() - begun
            print(f"{GUESSES} wrong codes: {dict(statuses)} in {took_s:.1f} s")
            assert statuses.keys() == {404, 429}
            # What ISSUER_GUESS_LIMIT says: ten, and one more every six seconds.
            assert statuses[404] <= 10 + took_s / 6
            # The right one, on whatever process: who guesses is not told.
            assert {await guess(row["code"]) for _ in range(20)} == {429}


async def _until_known(client: httpx.AsyncClient) -> None:
    """Every process has heard of the key when all of many answers are good."""
    async with asyncio.timeout(30):
        while {(await client.get(f"/api/v1/customers/{UUID(int=0)}/redemptions")).status_code for _ in range(40)} != {
            200
        }:
            await asyncio.sleep(0.05)
