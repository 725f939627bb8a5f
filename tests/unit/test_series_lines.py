"""What waits to be written to the series, and what is made of the pulses of all processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from issuer.contract.keys import batch_keys
from issuer.contract.outcomes import Outcome
from issuer.http.metrics import now, series_recorder
from issuer.http.metrics.now import NowFeed, sum_durations
from issuer.http.metrics.series_recorder import SeriesRecorder
from issuer.http.metrics.store_metrics import RedisMetrics
from issuer.http.metrics.tally import BOUNDS_S, Tally


def test_what_is_of_no_pool_displaces_nothing_and_the_newest_lines_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_recorder, "MAX_LINES", 3)
    pools = [(uuid4(), uuid4()) for _ in range(4)]
    answered: Counter[tuple[str, Outcome]] = Counter({(_key(*pool), Outcome.GRANTED): 1 for pool in pools})
    answered.update({(_key(uuid4(), uuid4()), Outcome.UNKNOWN_BATCH): 1 for _ in range(9)})
    stores: Any = None
    engine: Any = SimpleNamespace(take_answered=lambda: answered)
    recorder = SeriesRecorder(stores, engine, Tally(None), host="here")
    recorder._gather()
    assert [line.pool for line in recorder._waiting] == pools[1:]


def test_a_process_with_other_buckets_is_left_out_of_the_durations() -> None:
    ours = [0] * len(BOUNDS_S)
    assert sum_durations([(1.0, {}, [*ours, 2]), (1.0, {}, [7, 7]), (1.0, {}, [*ours, 3])]) == [*ours, 5]
    assert sum_durations([]) == []


async def test_a_rate_is_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_: object) -> RedisMetrics:
        return RedisMetrics([0], 0, 0.0, granted=72_000)

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(now, "read_redis_metrics", read)
    monkeypatch.setattr(now, "_read_recorded", nothing)
    some: Any = SimpleNamespace(is_ready=True, is_alive=True)
    some.incarnations = SimpleNamespace(watch=SimpleNamespace(stops=()))
    feed = NowFeed(some, some)
    at_s = asyncio.get_running_loop().time()
    feed._granted.append((at_s - 3_600, 0))
    assert (await feed.figures()).granted_per_s is None
    assert await feed.figures() is await feed.figures()
    feed._granted[0], feed._once = (at_s - 1, 71_000), None
    assert (await feed.figures()).granted_per_s is not None
    assert feed.reads == 2


def _key(batch: UUID, client: UUID) -> str:
    return batch_keys(0, batch).pool(client)
