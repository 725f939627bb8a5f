"""What the worker does beside the ledger: top-ups, new batches for Redis, codes to generate, signs of life, tidying."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

from issuer.batches.store import push_batch
from issuer.batches.tombstones import free_ended_batches
from issuer.contract.keys import GROUP, partition_keys
from issuer.contract.scripts import REMOVE_CONSUMERS
from issuer.generating.job_runner import work_on_jobs
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import PoolError
from issuer.pools.top_up import top_up
from issuer.recovery.witness import forget_witnesses
from issuer.storage.postgres import PostgresUnavailableError, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError, redis_errors_translated, time_ms
from issuer.storage.stores import Stores
from sync_worker.worker import BackOff, Progress, pause

log = structlog.get_logger()

THOROUGH_EVERY_S: Final = 60.0
CONSUMER_IDLE_MS: Final = 3_600_000
FORGET_WORKERS_AFTER: Final = "1 day"

EXPECTED: Final = (PostgresUnavailableError, RedisUnavailableError, RedisMemoryError, PoolError)
"""What passes: a store is away, busy or full."""


@dataclass(frozen=True, slots=True)
class MaintenanceTask:
    """Something done again and again, `every_s` after it was done the last time."""

    name: str
    every_s: float
    act: Callable[[], Awaitable[None]]

    async def run(self, stopping: asyncio.Event) -> None:
        """Until the worker stops. A store that is away is waited for; any other error goes up and ends the process."""
        back_off, trouble = BackOff(stopping), ""
        while not stopping.is_set():
            try:
                await self.act()
            except EXPECTED as error:
                if str(error) != trouble:
                    log.warning("chore has to wait", chore=self.name, reason=f"{type(error).__name__}: {error}")
                trouble = str(error)
                await back_off.wait()
            else:
                trouble = ""
                back_off.reset()
                await pause(stopping, self.every_s)


class MaintenanceTasks:
    """The chores of one worker process."""

    def __init__(self, stores: Stores, name: str, progress: Progress) -> None:
        self._stores = stores
        self._name = name
        self._progress = progress
        self._thorough_at = 0.0

    def all(self) -> tuple[MaintenanceTask, ...]:
        return (
            MaintenanceTask("top-up", 0.1, self.top_up),
            MaintenanceTask("batch-sync", 1.0, self.sync_batches),
            MaintenanceTask("generate", 0.2, self.generate),
            MaintenanceTask("free-ended-batches", 5.0, self.free_ended),
            MaintenanceTask("sign-of-life", 1.0, self.give_sign_of_life),
            MaintenanceTask("remove-consumers", 600.0, self.remove_consumers),
            MaintenanceTask("forget-witnesses", 600.0, self.forget_witnesses),
        )

    async def top_up(self) -> None:
        # Hints may be wrong after a crash: now and then every pool is looked at, first of all at the start.
        thorough = time.monotonic() >= self._thorough_at
        await top_up(self._stores, thorough=thorough)
        if thorough:
            self._thorough_at = time.monotonic() + THOROUGH_EVERY_S

    async def sync_batches(self) -> None:
        """Brings to Redis what a change of a batch could not, because Redis was away or its process died."""
        async with unavailable_translated():
            rows = await self._stores.postgres.fetch("SELECT id FROM batches WHERE redis_revision < revision")
        for row in rows:
            await push_batch(self._stores, row["id"])

    async def generate(self) -> None:
        """A chunk of the codes that were asked for and that no other process makes."""
        await work_on_jobs(self._stores)

    async def free_ended(self) -> None:
        await free_ended_batches(self._stores)

    async def give_sign_of_life(self) -> None:
        """The row in `workers` by which others see that this one lives, and how far behind the ledger is."""
        detail: dict[str, Any] = {
            "inserted": self._progress.inserted,
            "duplicates": self._progress.duplicates,
            "anomalies": self._progress.anomalies,
            "dead_letters": self._progress.dead_letters,
            "transactions": self._progress.transactions,
            "trouble": self._progress.trouble,
            "troubles": self._progress.troubles,
        }
        try:
            detail["lag_events"], detail["lag_s"] = await self.lag()
        except RedisUnavailableError as error:
            detail["trouble"] = detail["trouble"] or f"Redis: {error}"
        async with unavailable_translated():
            await self._stores.postgres.execute(_SIGN_OF_LIFE, self._name, orjson.dumps(detail).decode())

    async def lag(self) -> tuple[int, float]:
        """Redemptions that are not in the ledger yet, and the age in seconds of the oldest event of theirs."""
        pipeline = self._stores.redis.client.pipeline(transaction=False)
        pipeline.time()
        for partition in range(self._stores.redis.partitions):
            keys = partition_keys(partition)
            pipeline.hget(keys.state, "backlog")
            pipeline.xrange(keys.stream, count=1)
        async with redis_errors_translated():
            now, *replies = await pipeline.execute()
        backlog = sum(int(count or 0) for count in replies[::2])
        oldest_ms = min((int(first[0][0].partition(b"-")[0]) for first in replies[1::2] if first), default=None)
        return backlog, 0.0 if oldest_ms is None else max(0, time_ms(now) - oldest_ms) / 1000

    async def forget_witnesses(self) -> None:
        await forget_witnesses(self._stores.postgres)

    async def remove_consumers(self) -> None:
        for partition in range(self._stores.redis.partitions):
            keys = partition_keys(partition)
            await self._stores.redis.run(REMOVE_CONSUMERS, (keys.state, keys.stream), (GROUP, CONSUMER_IDLE_MS))


_SIGN_OF_LIFE: Final = f"""
WITH forgotten AS (DELETE FROM workers WHERE seen_at < now() - interval '{FORGET_WORKERS_AFTER}')
INSERT INTO workers (name, seen_at, detail) VALUES ($1, clock_timestamp(), $2)
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at, detail = excluded.detail"""
