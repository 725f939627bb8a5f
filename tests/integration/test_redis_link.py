"""The boundary to Redis, on a real server."""

from __future__ import annotations

import asyncio

import pytest
import redis
from pydantic import SecretStr

from issuer.settings import Settings
from issuer.storage.redis_link import Redis
from issuer.storage.stores import Stores
from tests.support.servers import RedisServer


async def test_no_command_reaches_a_server_that_is_not_blessed(
    settings: Settings, stores: Stores, own_redis: RedisServer
) -> None:
    assert stores.incarnations.blessed is not None
    other = Redis(settings.model_copy(update={"redis_url": SecretStr(own_redis.url())}), stores.incarnations)
    try:
        with pytest.raises(redis.ConnectionError, match="not blessed"):
            await other.client.set("key", "value")
    finally:
        await other.aclose()
    with own_redis.client() as client:
        assert client.dbsize() == 0


async def test_a_cancelled_command_ends_its_task(stores: Stores) -> None:
    """At every step of the exchange: a task that lost its cancellation would run indefinitely."""

    async def pings() -> None:
        while True:
            await stores.redis.client.ping()

    await stores.redis.client.ping()
    for steps in range(40):
        task = asyncio.create_task(pings(), name="pings")
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.01)
        assert done, f"cancelled after {steps} steps, but still running"
        assert task.cancelled()
