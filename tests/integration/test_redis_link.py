"""The boundary to Redis, on a real server."""

from __future__ import annotations

import asyncio

from issuer.storage.stores import Stores


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
