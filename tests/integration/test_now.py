"""The figures of this moment: read once a second however many watch, and never while there are no watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from issuer.http.console.now.now_screen import event, events, rendered
from issuer.http.metrics.now import NowFeed, NowFigures, quantile, refusals_per_s
from issuer.http.metrics.store_metrics import RedisMetrics
from issuer.http.metrics.tally import BOUNDS_S
from issuer.settings import Settings
from tests.support.api import running_app


async def test_watchers_share_the_reads_and_see_the_latest_figures(settings: Settings) -> None:
    async with running_app(settings) as api:
        feed = NowFeed(api.services.stores, api.services.engine)
        streams: list[AsyncGenerator[NowFigures]] = [feed.watch() for _ in range(50)]
        slow = feed.watch()
        stale = await anext(slow)
        for _ in range(2):
            seen = await asyncio.gather(*map(anext, streams))
        assert feed.reads == 2
        assert len(set(map(id, seen))) == 1
        assert event(seen[0]) is event(seen[-1])
        # It was too slow for one, and gets the next one at once: nothing is kept for it.
        late = await anext(slow)
        assert late is seen[0]
        assert late is not stale
        await api.batch("NOW-1")
        await api.owner.execute(
            "INSERT INTO pool_rates SELECT id, now(), 2, 1, 7, now() + interval '30 minutes' FROM pools"
        )
        async for figures in streams[0]:
            if figures.recorded is not None and figures.recorded.pools:
                break
        assert figures.is_ready
        assert figures.granted_per_s is not None
        assert figures.recorded is not None
        assert [pool.remaining for pool in figures.recorded.pools] == [7]
        assert "30 minutes" in rendered(figures)
        assert event(figures).endswith(b"\n\n")
        assert b"\n\n" not in event(figures)[:-2]
        for stream in (*streams, slow):
            await stream.aclose()
        reads = feed.reads
        assert (await feed.figures()) is not figures
        assert feed.reads == reads + 1, "the one that was asked for: no one watches"
        assert [task for task in asyncio.all_tasks() if task.get_name() == "now" and not task.cancelling()] == []
        await feed.aclose()
        assert [one async for one in feed.watch()] == []


async def test_figures_that_do_not_change_are_not_sent_again() -> None:
    class Moments(NowFeed):
        def __init__(self) -> None: ...

        async def watch(self) -> AsyncGenerator[NowFigures]:
            for ready in (False, False, False, True):
                yield NowFigures(ready, RedisMetrics([0], 0, 0.0), None, 0.0)

    assert len([one async for one in events(Moments())]) == 2


def test_rates_and_quantiles_are_of_all_processes() -> None:
    pulses: list[tuple[float, dict[str, int], list[int]]] = [
        (5.0, {"granted": 50, "sold_out": 5}, []),
        (2.0, {"sold_out": 4, "not_ready": 2}, []),
    ]
    assert refusals_per_s(pulses) == {"sold_out": 3.0, "not_ready": 1.0}
    durations = [0] * (len(BOUNDS_S) + 1)
    assert quantile(durations, 0.5) is None
    durations[1], durations[3] = 90, 10
    assert quantile(durations, 0.5) == 0.0005 + 0.0005 * 50 / 90
    assert quantile(durations, 0.99) == 0.002 + 0.001 * 9 / 10
    assert quantile([0] * len(BOUNDS_S) + [1], 0.5) == BOUNDS_S[-1]
