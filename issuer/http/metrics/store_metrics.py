"""State of Redis, Postgres and the workers, read for /readyz, /healthcheck and /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from redis.exceptions import ResponseError

from issuer.contract.keys import partition_keys
from issuer.pools.counters import PoolCounters, read_pool_counters
from issuer.storage.postgres import PostgresUnavailableError, unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError, redis_errors_translated, time_ms
from issuer.storage.server_watch import Stop
from issuer.storage.stores import Stores

TIMEOUT_S: Final = 2.0
MAX_POOLS: Final = 10_000
"""Most pools shown, the newest first: each adds two time series."""


@dataclass(frozen=True, slots=True)
class RedisMetrics:
    """`backlog`: redemptions not in the ledger yet, by partition. Lag: number of stream entries and age of the oldest.

    `granted`: facts that were ever granted, in all partitions. `takes_writes` is False if the probe was refused, for
    example because Redis is at its memory limit.
    """

    backlog: list[int]
    lag_events: int
    lag_s: float
    takes_writes: bool = True
    granted: int = 0


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """The last heartbeat of a worker."""

    name: str
    seen_at: datetime
    seen_s_ago: float


@dataclass(frozen=True, slots=True)
class PostgresMetrics:
    workers: list[WorkerMetrics]
    anomalies: int
    dead_letters: int
    quarantined: int
    missing_registrations: int
    processes_without_journal: int
    refused_void: int
    failed_rows: int
    audit_id: int
    may_change_ledger: bool
    """Whether the role of this process has more rights than it needs."""
    incident: str | None
    """What only an operator can resolve, in words; None: nothing."""


@dataclass(frozen=True, slots=True)
class PoolMetrics:
    """Codes not issued yet, in total and in Redis. None: Redis has no counters of the pool."""

    batch_id: str
    client_id: str
    left: int | None
    in_redis: int | None


@dataclass(frozen=True, slots=True)
class StoreMetrics:
    """Metrics of both stores. None: the store is unavailable. `stops`: why this process issues nothing."""

    redis: RedisMetrics | None
    postgres: PostgresMetrics | None
    pools: list[PoolMetrics] = field(default_factory=list)
    stops: frozenset[Stop] = frozenset()

    @property
    def redis_serves(self) -> bool:
        """Return whether Redis answers with the data of the blessed epoch and accepts writes."""
        return self.redis is not None and self.redis.takes_writes


async def read_store_metrics(stores: Stores, *, with_pools: bool = False, try_writing: bool = False) -> StoreMetrics:
    """Read the metrics of both stores within TIMEOUT_S each. An unavailable store is None and raises nothing.

    `try_writing`: also send Redis a small write, which is synced to disk like any other write.
    """
    redis, postgres = await asyncio.gather(read_redis_metrics(stores, try_writing=try_writing), _read_postgres(stores))
    pools: list[PoolMetrics] = []
    if with_pools and postgres is not None:
        pools = await _read_pools(stores, redis is not None)
    return StoreMetrics(redis, postgres, pools, frozenset(stores.incarnations.watch.stops))


async def read_redis_metrics(stores: Stores, *, try_writing: bool = False) -> RedisMetrics | None:
    """Read the metrics of Redis within TIMEOUT_S; None: it is unavailable."""
    takes_writes = True
    try:
        async with asyncio.timeout(TIMEOUT_S), redis_errors_translated():
            if try_writing:
                takes_writes = await _takes_writes(stores)
            epoch = str(stores.redis.epoch).encode()
            pipeline = stores.redis.client.pipeline(transaction=False)
            pipeline.time()
            for partition in range(stores.redis.partitions):
                keys = partition_keys(partition)
                pipeline.hmget(keys.state, ["epoch", "backlog", "serial"])
                pipeline.xlen(keys.stream)
                pipeline.xrange(keys.stream, count=1)
            now, *replies = await pipeline.execute()
    except (RedisUnavailableError, TimeoutError):
        return None
    now_ms = time_ms(now)
    states, lengths, firsts = replies[::3], replies[1::3], replies[2::3]
    if any(state[0] != epoch for state in states):
        return None
    oldest_ms = [int(first[0][0].partition(b"-")[0]) for first in firsts if first]
    lag_s = max(0.0, (now_ms - min(oldest_ms)) / 1000) if oldest_ms else 0.0
    granted = sum(int(state[2] or 0) for state in states)
    return RedisMetrics([int(state[1] or 0) for state in states], sum(lengths), lag_s, takes_writes, granted)


async def _takes_writes(stores: Stores) -> bool:
    try:
        await stores.redis.client.set(partition_keys(0).probe, 1, ex=60)
    except ResponseError:
        return False
    return True


COUNTS: Final = """
SELECT (SELECT count(*) FROM anomalies) AS anomalies,
       (SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL) AS dead_letters,
       (SELECT count(*) FROM quarantined WHERE released_at IS NULL) AS quarantined,
       (SELECT count(*) FROM registrations r, installation i WHERE r.settled IS NULL AND r.epoch <= i.lost_epoch)
         AS missing_registrations,
       (SELECT count(*) FROM registrations r, installation i WHERE r.left_at IS NULL AND r.epoch = i.epoch
         AND NOT r.has_journal AND r.seen_at > now() - interval '15 s') AS processes_without_journal,
       (SELECT coalesce(sum(refused), 0)::bigint FROM epoch_bases) AS refused_void,
       (SELECT count(*) FROM task_rows WHERE failures > 0) AS failed_rows,
       (SELECT id FROM audit_ends WHERE which = 'newest') AS audit_id,
       has_table_privilege('redemptions', 'UPDATE') AS may_change_ledger,
       (SELECT incident FROM installation) AS incident
"""


_WORKERS: Final = """
SELECT name, seen_at, extract(epoch FROM clock_timestamp() - seen_at)::float8 AS age
FROM workers WHERE seen_at > now() - interval '1 day' ORDER BY seen_at DESC LIMIT 100"""


async def _read_postgres(stores: Stores) -> PostgresMetrics | None:
    try:
        async with asyncio.timeout(TIMEOUT_S), unavailable_translated(), stores.postgres.acquire() as connection:
            workers = await connection.fetch(_WORKERS)
            counts = await connection.fetchrow(COUNTS)
    except (PostgresUnavailableError, TimeoutError):
        return None
    assert counts is not None
    heartbeats = [WorkerMetrics(row["name"], row["seen_at"], max(0.0, row["age"])) for row in workers]
    return PostgresMetrics(heartbeats, **dict(counts))


_OPEN_POOLS: Final = """
SELECT p.batch_id, p.client_id, p.total FROM pools p JOIN batches b ON b.id = p.batch_id
WHERE b.kind = 'codes' AND b.ended_at IS NULL AND (b.ends_at IS NULL OR b.ends_at > now())
ORDER BY p.id DESC LIMIT $1"""


async def _read_pools(stores: Stores, redis_available: bool) -> list[PoolMetrics]:
    try:
        async with asyncio.timeout(TIMEOUT_S), unavailable_translated():
            rows = await stores.postgres.fetch(_OPEN_POOLS, MAX_POOLS)
        found: Sequence[PoolCounters | None] = [None] * len(rows)
        if redis_available:
            async with asyncio.timeout(TIMEOUT_S):
                found = await read_pool_counters(stores.redis, [(row["batch_id"], row["client_id"]) for row in rows])
    except (PostgresUnavailableError, RedisUnavailableError, TimeoutError):
        return []
    pools = []
    for row, counters in zip(rows, found, strict=True):
        left, in_redis = (None, None) if counters is None else (row["total"] - counters.issued, counters.in_redis)
        pools.append(PoolMetrics(str(row["batch_id"]), str(row["client_id"]), left, in_redis))
    return pools
