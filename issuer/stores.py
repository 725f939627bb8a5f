"""The stores of one process, opened and closed together: Postgres, the blessed pair, Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from issuer.incarnation import Incarnations
from issuer.postgres import Pool, close_pool, connect_pool
from issuer.recovery.guardian import Guardian
from issuer.redis_link import Redis
from issuer.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """What a command, the worker or the API needs. The guardian keeps watch while they are open."""

    settings: Settings
    postgres: Pool
    incarnations: Incarnations
    redis: Redis
    guardian: Guardian


@asynccontextmanager
async def open_stores(
    settings: Settings, *, postgres_size: int = 4, wait_until_ready: bool = True
) -> AsyncIterator[Stores]:
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
                yield Stores(settings, postgres, incarnations, redis, guardian)
        finally:
            await guardian.aclose()
            await redis.aclose()
    finally:
        await close_pool(postgres)
