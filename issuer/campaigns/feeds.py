"""Feeds: the counters of campaigns as they change, for any number of listeners.

All listeners of a campaign share one poll of Redis per second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import structlog

from issuer.campaigns.campaign import Campaign, CampaignState
from issuer.campaigns.counters import Counters, read_counters
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

POLL_S: Final = 1.0
MIN_POLL_S: Final = 0.02
RATE_POLLS: Final = 5
"""Number of polls over which the rate is averaged."""


@dataclass(frozen=True, slots=True)
class FeedUpdate:
    """One update of a feed. `counters` None: Redis is unavailable. `rate_per_s`: codes issued per second recently."""

    counters: Counters | None
    rate_per_s: float = 0.0

    def differs(self, other: FeedUpdate | None) -> bool:
        """Return whether anything but the time differs."""
        if other is None or self.counters is None or other.counters is None:
            return self != other
        return self != replace(other, counters=replace(other.counters, now_ms=self.counters.now_ms))

    @property
    def is_last(self) -> bool:
        return self.counters is not None and self.counters.state is CampaignState.ENDED


class CampaignFeeds:
    """The feeds of all campaigns with listeners. One per process."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._feeds: dict[UUID, _Feed] = {}
        self._closed = False

    @property
    def polls(self) -> int:
        """The number of campaigns that are polled."""
        return len(self._feeds)

    async def ticks(self, campaign: Campaign, *, heartbeat_s: float) -> AsyncGenerator[FeedUpdate | None]:
        """Yield an update now and at each change, and None after `heartbeat_s` without one. Ends with the campaign."""
        if self._closed:
            return
        feed = self._feeds.get(campaign.id)
        if feed is None:
            feed = self._feeds[campaign.id] = _Feed(self._stores, campaign)
        feed.listeners += 1
        try:
            last: FeedUpdate | None = None
            while not self._closed and not feed.task.done():
                changed = feed.changed
                if feed.latest is not None and feed.latest is not last:
                    last = feed.latest
                    yield last
                    if last.is_last:
                        return
                    continue
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await changed.wait()
                except TimeoutError:
                    yield None
        finally:
            feed.listeners -= 1
            if not feed.listeners:
                feed.task.cancel()
                self._feeds.pop(campaign.id, None)

    def close(self) -> None:
        """End all feeds. Call this before waiting for the requests to end."""
        self._closed = True
        for feed in self._feeds.values():
            feed.wake()

    async def aclose(self) -> None:
        """End all feeds and stop polling."""
        self.close()
        tasks = [feed.task for feed in self._feeds.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Feed:
    """The feed of one campaign: polls Redis while there are listeners."""

    def __init__(self, stores: Stores, campaign: Campaign) -> None:
        self._stores = stores
        self._campaign = campaign
        self._issued: deque[tuple[int, int]] = deque(maxlen=RATE_POLLS + 1)
        self.listeners = 0
        self.latest: FeedUpdate | None = None
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._poll(), name="campaign-feed")

    def wake(self) -> None:
        """Wake all listeners."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def _poll(self) -> None:
        try:
            while True:
                update = await self._read()
                if update.differs(self.latest):
                    self.latest = update
                    self.wake()
                await asyncio.sleep(self._pause_s(update))
        except Exception:
            log.exception("campaign feed crashed; its listeners are disconnected", campaign_id=str(self._campaign.id))
        finally:
            self.wake()

    async def _read(self) -> FeedUpdate:
        try:
            (counters,) = await read_counters(self._stores, [self._campaign])
        except RedisUnavailableError:
            return FeedUpdate(None)
        if counters.issued is None:
            return FeedUpdate(counters)
        self._issued.append((counters.now_ms, counters.issued))
        (since_ms, before), (now_ms, now) = self._issued[0], self._issued[-1]
        return FeedUpdate(counters, round((now - before) * 1000 / (now_ms - since_ms), 1) if now_ms > since_ms else 0.0)

    @staticmethod
    def _pause_s(update: FeedUpdate) -> float:
        """Return the pause before the next poll; shorter before the start, so that listeners see the start at once."""
        if update.counters is None or update.counters.state is not CampaignState.BEFORE:
            return POLL_S
        return min(POLL_S, max(MIN_POLL_S, (update.counters.starts_at_ms - update.counters.now_ms) / 1000))
