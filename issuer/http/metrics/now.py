"""What the whole installation does at this moment, for any number of watchers.

While there are watchers, a process reads both stores once a second, with one query and one pipeline, however many
watch; what needs attention it counts less often. Without any it reads nothing. A watcher gets the latest figures and
never those that it was too slow for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import inf
from typing import Any, Final

import orjson
import structlog

from issuer.contract.outcomes import Outcome
from issuer.engine.engine import Engine
from issuer.http.metrics.store_metrics import COUNTS, TIMEOUT_S, RedisMetrics, read_redis_metrics
from issuer.http.metrics.tally import BOUNDS_S
from issuer.storage.ending import end_tasks
from issuer.storage.postgres import PostgresUnavailableError, unavailable_translated
from issuer.storage.stores import Stores

log = structlog.get_logger()

EVERY_S: Final = 1.0
COUNTED_EVERY_S: Final = 5.0
RATE_READS: Final = 3
"""Number of reads over which the rate of grants is averaged."""
RATE_MAX_S: Final = 10.0
"""The time over which it is averaged at most."""
WORKER_LATE_S: Final = 10.0
MAX_POOLS: Final = 8
MAX_REASONS: Final = 6
ANSWERED: Final = frozenset(map(str.lower, (Outcome.GRANTED, Outcome.REPLAYED, Outcome.USABLE)))
"""Outcomes that are no refusals."""


@dataclass(frozen=True, slots=True)
class DryingPool:
    """A pool that issues and will be empty."""

    batch_id: str
    batch_name: str
    is_coupon: bool
    client: str
    remaining: int
    per_s_1m: float
    per_s_15m: float
    empty_at: datetime


@dataclass(frozen=True, slots=True)
class Recorded:
    """What Postgres says: what needs attention, the pulses of the API processes, and the pools that run dry first.

    `p50_s`, `p99_s`: None: nothing was answered in the last seconds.
    """

    worker_age_s: float | None
    incident: str | None
    anomalies: int
    dead_letters: int
    quarantined: int
    failed_rows: int
    refusals_per_s: Sequence[tuple[str, float]]
    refused_per_s: float
    p50_s: float | None
    p99_s: float | None
    processes: int
    pools: Sequence[DryingPool]

    @property
    def has_worker(self) -> bool:
        return self.worker_age_s is not None and self.worker_age_s < WORKER_LATE_S


@dataclass(frozen=True, slots=True, eq=False)
class NowFigures:
    """The figures of one moment. `redis`, `recorded` None: the store is unavailable. `granted_per_s` None: not known.

    `stops`: why this process issues nothing.
    """

    is_ready: bool
    redis: RedisMetrics | None
    recorded: Recorded | None
    granted_per_s: float | None
    stops: Sequence[str] = field(default_factory=tuple)


@dataclass(slots=True)
class _Counted:
    """What needs attention: after a loss there is much of it, so it is counted every COUNTED_EVERY_S."""

    at_s: float = -inf
    found: Mapping[str, Any] = field(default_factory=dict)


class NowFeed:
    """The figures of this moment as they are read. One per process."""

    def __init__(self, stores: Stores, engine: Engine) -> None:
        self._stores, self._engine = stores, engine
        self._granted: deque[tuple[float, int]] = deque(maxlen=RATE_READS + 1)
        self._watchers = 0
        self._changed = asyncio.Event()
        self._latest: NowFigures | None = None
        self._once: tuple[float, NowFigures] | None = None
        self._turn = asyncio.Lock()
        self._counted = _Counted()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.reads = 0

    async def figures(self) -> NowFigures:
        """Return the latest figures; without watchers those of a moment that all who ask within EVERY_S share."""
        if self._latest is not None:
            return self._latest
        async with self._turn:
            now_s = asyncio.get_running_loop().time()
            if self._once is None or now_s - self._once[0] >= EVERY_S:
                self._once = (now_s, await self._read())
            return self._once[1]

    async def watch(self) -> AsyncGenerator[NowFigures]:
        """Yield the figures now and once a second. Ends when the process ends."""
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._read_often(), name="now")
        try:
            while not self._closed:
                changed = self._changed
                if self._latest is not None:
                    yield self._latest
                if not self._closed and changed is self._changed:
                    await changed.wait()
        finally:
            self._watchers -= 1
            if not self._watchers and (task := self._task) is not None:
                self._task = self._latest = None
                self._granted.clear()
                task.cancel()

    def close(self) -> None:
        """End all watching. Call this before waiting for the requests to end."""
        self._closed = True
        self._wake()

    async def aclose(self) -> None:
        self.close()
        if self._task is not None:
            await end_tasks(self._task)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _read_often(self) -> None:
        while True:
            try:
                self._latest = await self._read()
            except Exception:
                log.exception("the figures of this moment could not be read; trying again")
            self._wake()
            await asyncio.sleep(EVERY_S)

    async def _read(self) -> NowFigures:
        self.reads += 1
        redis, recorded = await asyncio.gather(
            read_redis_metrics(self._stores), _read_recorded(self._stores, self._counted)
        )
        rate = None
        if redis is not None:
            self._granted.append((asyncio.get_running_loop().time(), redis.granted))
            # Without watchers reads can be hours apart: such a rate would say nothing about this moment.
            while self._granted[-1][0] - self._granted[0][0] > RATE_MAX_S:
                self._granted.popleft()
            (since_s, before), (now_s, now) = self._granted[0], self._granted[-1]
            # After a loss serials continue above the highest one: no rate of anything.
            rate = max(0.0, (now - before) / (now_s - since_s)) if now_s > since_s else None
        else:
            self._granted.clear()
        is_ready = redis is not None and self._engine.is_ready and self._engine.is_alive
        return NowFigures(is_ready, redis, recorded, rate, sorted(self._stores.incarnations.watch.stops))


_NOW: Final = f"""
SELECT (SELECT incident FROM installation) AS incident,
  (SELECT extract(epoch FROM clock_timestamp() - max(seen_at))::float8 FROM workers) AS worker_age_s,
  (SELECT coalesce(jsonb_agg(jsonb_build_array(period_s, outcomes, durations)), '[]')::text FROM pulses
    WHERE at > clock_timestamp() - interval '15 s') AS pulses,
  (SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY d.empty_at), '[]')::text FROM (
    SELECT p.batch_id, b.name AS batch_name, b.kind = 'coupon' AS is_coupon,
      coalesce((SELECT name FROM clients c WHERE c.id = p.client_id), p.client_id::text) AS client,
      r.remaining, r.per_s_1m, r.per_s_15m, r.empty_at
    FROM pool_rates r JOIN pools p ON p.id = r.pool_id JOIN batches b ON b.id = p.batch_id
    WHERE r.at > now() - interval '2 minutes' AND r.empty_at IS NOT NULL AND r.remaining > 0 AND b.ended_at IS NULL
    ORDER BY r.empty_at LIMIT {MAX_POOLS}) AS d) AS pools"""
_COUNTED: Final = f"SELECT anomalies, dead_letters, quarantined, failed_rows FROM ({COUNTS}) AS counts"


async def _read_recorded(stores: Stores, counted: _Counted) -> Recorded | None:
    try:
        async with asyncio.timeout(TIMEOUT_S), unavailable_translated():
            row = await stores.postgres.fetchrow(_NOW)
            if time.monotonic() - counted.at_s >= COUNTED_EVERY_S:
                found = await stores.postgres.fetchrow(_COUNTED)
                counted.at_s, counted.found = time.monotonic(), dict(found or {})
    except (PostgresUnavailableError, TimeoutError):
        return None
    assert row is not None
    fields: dict[str, Any] = dict(row)
    pulses, pools = orjson.loads(fields.pop("pulses")), orjson.loads(fields.pop("pools"))
    refusals = refusals_per_s(pulses)
    durations = sum_durations(pulses)
    return Recorded(
        **fields,
        **counted.found,
        refusals_per_s=sorted(refusals.items(), key=lambda one: -one[1])[:MAX_REASONS],
        refused_per_s=sum(refusals.values()),
        p50_s=quantile(durations, 0.5),
        p99_s=quantile(durations, 0.99),
        processes=len(pulses),
        pools=[DryingPool(**pool | {"empty_at": datetime.fromisoformat(pool["empty_at"])}) for pool in pools],
    )


def refusals_per_s(pulses: Sequence[tuple[float, Mapping[str, int], Sequence[int]]]) -> dict[str, float]:
    """Return how often a second each refusal was answered, by its name in the metrics, over all processes."""
    found: dict[str, float] = {}
    for period_s, outcomes, _ in pulses:
        for name, count in outcomes.items():
            if name not in ANSWERED:
                found[name] = found.get(name, 0.0) + count / period_s
    return found


def sum_durations(pulses: Sequence[Any]) -> list[int]:
    """Return how many requests took how long. Processes of another version, with other buckets, are left out."""
    ours = [durations for _, _, durations in pulses if len(durations) == len(BOUNDS_S) + 1]
    return [sum(counts) for counts in zip(*ours, strict=True)]


def quantile(durations: Sequence[int], share: float) -> float | None:
    """Return the time within which a share of the requests was answered, as exact as the buckets; None: no request.

    Beyond the last bound it is that bound.
    """
    wanted = sum(durations) * share
    if not wanted:
        return None
    for (low, high), count in zip(pairwise((0.0, *BOUNDS_S)), durations, strict=False):
        if wanted <= count:
            return low + (high - low) * wanted / count
        wanted -= count
    return BOUNDS_S[-1]
