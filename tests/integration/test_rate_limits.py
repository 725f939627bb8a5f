"""Rate limits over several processes' worth of engines, at the routes, and what they cost when Redis is unavailable."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from issuer.contract.keys import limit_key
from issuer.engine.engine import Engine
from issuer.rate_limit import RateLimit, parse_limit
from issuer.rate_limits.leases import Admission, AdmissionResult, Bucket, Leases, RateLimited
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.api import Api, problem, running_app
from tests.support.parameters import some_long
from tests.support.recovery import engine_of
from tests.support.servers import RedisServer


class LimitedProcess:
    """What one API process has of a limit: an engine, leases, and its view of one bucket."""

    def __init__(self, engine: Engine, limit: RateLimit, subject: str) -> None:
        self.leases = Leases(engine, max_waiting=100_000)
        engine.carry(self.leases)
        self.bucket = Bucket("key", limit_key("key", subject), limit)
        self.waited = 0

    async def enter(self) -> AdmissionResult:
        future: asyncio.Future[AdmissionResult] = asyncio.get_running_loop().create_future()
        verdict = self.leases.spend([self.bucket], future.set_result)
        if verdict is Admission.PENDING:
            self.waited += 1
            verdict = await future
        return verdict


@asynccontextmanager
async def processes(settings: Settings, stores: Stores, count: int, text: str) -> AsyncIterator[list[LimitedProcess]]:
    limit = parse_limit(text)
    assert limit is not None
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            engine = await stack.enter_async_context(engine_of(settings, stores))
            found.append(LimitedProcess(engine, limit, text))
        yield found


@dataclass(frozen=True, slots=True)
class Entry:
    """An admitted request: the decision was made between `asked` and `entered`, however busy the machine is."""

    asked: float
    entered: float


async def hammer(process: LimitedProcess, entries: list[Entry], goal: int, pause_s: float = 0.0005) -> None:
    """Ask all the time until `entries`, which several processes may share, holds `goal` of them."""
    loop = asyncio.get_running_loop()
    while len(entries) < goal:
        asked = loop.time()
        if await process.enter() is Admission.ADMITTED:
            entries.append(Entry(asked, loop.time()))
        await asyncio.sleep(pause_s)


@pytest.mark.parametrize(
    ("text", "goal"),
    some_long([("100/s", 250), ("5/m", 5), ("10/s", 25), ("1/s,burst=3", 5), ("1000/s,burst=200", 1_500)], short=2),
)
@pytest.mark.long
async def test_four_processes_admit_what_one_bucket_would(
    settings: Settings, stores: Stores, text: str, goal: int
) -> None:
    """They reach the goal, and no sooner than with one bucket."""
    async with processes(settings, stores, 4, text) as found:
        limit = found[0].bucket.limit
        entries: list[Entry] = []
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(hammer(process, entries, goal) for process in found))
        took_s = entries[-1].entered - begun
    assert len(entries) <= limit.burst + took_s / limit.interval_s


@pytest.mark.long
async def test_any_window_admits_at_most_the_bucket_and_its_refill(settings: Settings, stores: Stores) -> None:
    """During pauses the bucket is refilled while leases are unspent. Together they must not exceed the bucket."""
    entries: list[Entry] = []
    async with processes(settings, stores, 4, "200/s") as found:
        for pause_s in (0.3, 1.2, 0.02, 0.6):
            # Slow enough to be paid from leases, then all at once.
            for more, every_s in ((50, 0.02), (200, 0.0005)):
                goal = len(entries) + more
                await asyncio.gather(*(hammer(process, entries, goal, every_s) for process in found))
            await asyncio.sleep(pause_s)
    limit = found[0].bucket.limit
    # Redis' clock has whole milliseconds.
    slack = 0.005 / limit.interval_s
    entered: list[float] = []
    for first in sorted(entries, key=lambda entry: entry.asked, reverse=True):
        insort(entered, first.entered)
        for count, last in list(enumerate(entered, 1))[::5]:
            assert count <= limit.burst + (last - first.asked) / limit.interval_s + slack


async def test_a_frequent_caller_does_not_wait(settings: Settings, stores: Stores) -> None:
    async with processes(settings, stores, 1, "100000/s") as (process,):
        entries: list[Entry] = []
        await hammer(process, entries, 3_000, pause_s=0)
        assert process.waited < len(entries) / 10


async def test_a_client_over_the_limit_is_refused_without_redis(settings: Settings, stores: Stores) -> None:
    async with processes(settings, stores, 1, "3/h") as (process,):
        verdicts = await asyncio.gather(*(process.enter() for _ in range(10)))
        assert Counter(type(verdict) for verdict in verdicts) == {Admission: 3, RateLimited: 7}
        process.waited = 0
        again = await process.enter()
        assert isinstance(again, RateLimited)
        assert 1_190 < again.wait_s <= 1_200
        assert process.waited == 0


async def test_a_lease_is_not_lost_with_the_scripts(settings: Settings, stores: Stores) -> None:
    client: Any = stores.redis.client
    async with processes(settings, stores, 1, "3/h") as (process,):
        await client.script_flush()
        verdicts = [await process.enter() for _ in range(4)]
        assert [type(verdict) for verdict in verdicts] == [Admission, Admission, Admission, RateLimited]


@pytest.fixture
async def limited(settings: Settings) -> AsyncIterator[Api]:
    update = {"rate_limit": "3/h", "rate_limit_ip": "off"}
    async with running_app(settings.model_copy(update=update)) as api:
        yield api


def refused(response: httpx.Response, kind: str, count: int = 3) -> None:
    found = problem(response, 429, "too many requests")
    assert (found["code"], found["violated-policies"]) == ("rate_limited", [kind])
    wait_s = int(response.headers["retry-after"])
    assert 0 < wait_s <= 3_600
    assert response.headers["ratelimit-policy"] == f'"{kind}";q={count};w=3600;issuer-burst={count}'
    assert response.headers["ratelimit"] == f'"{kind}";r=0;t={wait_s}'


async def test_every_route_with_a_key_is_counted_and_no_other(limited: Api) -> None:
    key = await limited.key("admin", "redeem")
    body = {"batchid": "x"}
    assert (await limited.get("/api/v1/batches", key)).status_code == 200
    assert (await limited.client.post("/api/v1/code/redeem", json=body, headers=key)).status_code == 400
    assert (await limited.get("/api/v1/audit", key)).status_code == 200
    refused(await limited.get("/api/v1/batches", key), "key")
    refused(await limited.client.post("/api/v1/code/redeem", json=body, headers=key), "key")
    refused(await limited.client.post("/api/v1/batches", json={}, headers=key), "key")
    for path in ("/livez", "/readyz", "/openapi.json"):
        assert (await limited.client.get(path)).status_code == 200
    # Another key has its own.
    other = await limited.key("admin")
    assert (await limited.get("/api/v1/batches", other)).status_code == 200
    metrics = (await limited.get("/metrics", other)).text
    assert 'issuer_rate_limited_total{limit="key"} 3.0' in metrics


async def test_a_key_may_have_a_limit_of_its_own(limited: Api) -> None:
    small, free = await limited.key("admin", rate_limit="1/h"), await limited.key("admin", rate_limit="off")
    assert (await limited.get("/api/v1/batches", small)).status_code == 200
    refused(await limited.get("/api/v1/batches", small), "key", 1)
    for _ in range(10):
        assert (await limited.get("/api/v1/batches", free)).status_code == 200


async def test_addresses_are_counted_also_without_a_key_and_behind_a_proxy(settings: Settings) -> None:
    update = {"rate_limit_ip": "3/h", "trusted_proxies": "127.0.0.1"}
    async with running_app(settings.model_copy(update=update)) as api:

        async def ask(address: str) -> httpx.Response:
            return await api.client.post("/api/v1/code/redeem", headers={"X-Forwarded-For": address})

        for _ in range(3):
            problem(await ask("2001:db8::1"), 401)
        refused(await ask("2001:db8::2"), "address")
        problem(await ask("2001:db8:0:1::1"), 401)
        problem(await ask("192.0.2.1, 198.51.100.1"), 401)
        # The list is read from the right, so that a client cannot choose its address.
        for number in range(2):
            problem(await ask(f"192.0.2.{number}, 198.51.100.1"), 401)
        refused(await ask("192.0.2.9, 198.51.100.1"), "address")


async def test_a_refusal_by_one_limit_costs_nothing_of_the_other(settings: Settings) -> None:
    update = {"rate_limit": "2/h", "rate_limit_ip": "6/h"}
    async with running_app(settings.model_copy(update=update)) as api:
        key = await api.key("admin")
        answers = [await api.get("/api/v1/batches", key) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 2 + [429] * 6
        statuses = [(await api.client.get("/api/v1/batches")).status_code for _ in range(5)]
        assert statuses == [401] * 4 + [429]


async def test_without_redis_limits_admit_every_request(redis_server: RedisServer, settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0"), "rate_limit": "1/h"})
    async with running_app(nowhere, ready=False) as api:
        key = await api.key("redeem")
        for _ in range(3):
            api.redeemer = key
            problem(
                await api.redeem("7a4f8e5c-1d7b-4f0e-9b1e-2f6c3d5a9e10", "7a4f8e5c-1d7b-4f0e-9b1e-2f6c3d5a9e10"), 503
            )
