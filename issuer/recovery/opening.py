"""Open the stores of one process, with a guardian that watches Redis while they are open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from issuer.recovery.guardian import Guardian
from issuer.settings import Settings
from issuer.storage.incarnation import Incarnations
from issuer.storage.postgres import close_pool, connect_pool
from issuer.storage.redis_link import Redis
from issuer.storage.stores import Stores


@dataclass(frozen=True, slots=True)
class GuardedStores(Stores):
    """The stores, and the guardian that recovers Redis when that is needed."""

    guardian: Guardian


@asynccontextmanager
async def open_stores(
    settings: Settings, *, postgres_size: int = 4, wait_until_ready: bool = True
) -> AsyncIterator[GuardedStores]:
    """Open the stores. With `wait_until_ready` the Redis server is recovered and blessed first if that is needed.

    Raises PostgresUnavailableError, InstallationError and RedisUnavailableError. Without `wait_until_ready` nothing is
    raised: the guardian waits for unavailable stores in the background, and calls that need them fail meanwhile.
    """
    postgres = await connect_pool(settings, size=postgres_size)
    try:
        incarnations = Incarnations(settings, postgres)
        guardian = Guardian(settings, postgres, incarnations)
        redis = Redis(settings, incarnations)
        try:
            if wait_until_ready:
                await incarnations.start()
                await guardian.check()
            async with guardian.watching():
                yield GuardedStores(settings, postgres, incarnations, redis, guardian)
        finally:
            await guardian.aclose()
            await redis.aclose()
    finally:
        await close_pool(postgres)
