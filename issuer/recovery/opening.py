"""Opens the stores of one process, with a guardian that keeps watch over Redis while they are open."""

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
    """The stores with the guardian that recovers Redis when it must be recovered."""

    guardian: Guardian


@asynccontextmanager
async def open_stores(
    settings: Settings, *, postgres_size: int = 4, wait_until_ready: bool = True
) -> AsyncIterator[GuardedStores]:
    """Opens the stores; recovers and blesses the Redis server first if it must be (`wait_until_ready`).

    Raises PostgresUnavailableError, InstallationError and, with `wait_until_ready`, RedisUnavailableError. Without it
    everything that is away is waited for in the background, and what needs it fails meanwhile.
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
