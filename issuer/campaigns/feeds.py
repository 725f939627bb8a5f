"""Counters of campaigns as they change, for whoever listens.

However many listen to one campaign, Redis is asked once a second.
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
SOONEST_S: Final = 0.02
RATE_POLLS: Final = 5
"""The rate is taken over the time of so many polls."""


@dataclass(frozen=True, slots=True)
class FeedUpdate:
    """What listeners are told. `counters` None: Redis cannot be asked. `rate_per_s`: codes issued of late."""

    counters: Counters | None
    rate_per_s: float = 0.0

    def differs(self, other: FeedUpdate | None) -> bool:
        """In anything but the time."""
        if other is None or self.counters is None or other.counters is None:
            return self != other
        return self != replace(other, counters=replace(other.counters, now_ms=self.counters.now_ms))

    @property
    def is_last(self) -> bool:
        return self.counters is not None and self.counters.state is CampaignState.ENDED


class CampaignFeeds:
    """The campaigns that somebody listens to. One for all of a process."""

    def __init__(self, stores: Stores, *, most_listeners: int) -> None:
        self._stores = stores
        self._most = most_listeners
        self._listeners = 0
        self._feeds: dict[UUID, _Feed] = {}
        self._closed = False

    @property
    def has_room(self) -> bool:
        return not self._closed and self._listeners < self._most

    @property
    def polls(self) -> int:
        """Campaigns that Redis is asked for."""
        return len(self._feeds)

    async def ticks(self, campaign: Campaign, *, heartbeat_s: float) -> AsyncGenerator[FeedUpdate | None]:
        """A tick now and at each change, None when nothing has changed for so long; ends with the campaign.

        Ends at once where there is no room.
        """
        if not self.has_room:
            return
        self._listeners += 1
        feed = self._feeds.get(campaign.id)
        if feed is None:
            feed = self._feeds[campaign.id] = _Feed(self._stores, campaign)
        feed.listeners += 1
        try:
            told: FeedUpdate | None = None
            while not self._closed and not feed.task.done():
                changed = feed.changed
                if feed.latest is not None and feed.latest is not told:
                    told = feed.latest
                    yield told
                    if told.is_last:
                        return
                    continue
                try:
                    async with asyncio.timeout(heartbeat_s):
                        await changed.wait()
                except TimeoutError:
                    yield None
        finally:
            self._listeners -= 1
            feed.listeners -= 1
            if not feed.listeners:
                feed.task.cancel()
                self._feeds.pop(campaign.id, None)

    def close(self) -> None:
        """Ends all streams. Whoever waits for the requests to end does this first."""
        self._closed = True
        for feed in self._feeds.values():
            feed.wake()

    async def aclose(self) -> None:
        self.close()
        tasks = [feed.task for feed in self._feeds.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Feed:
    """One campaign, asked for again and again while there are listeners."""

    def __init__(self, stores: Stores, campaign: Campaign) -> None:
        self._stores = stores
        self._campaign = campaign
        self._issued: deque[tuple[int, int]] = deque(maxlen=RATE_POLLS + 1)
        self.listeners = 0
        self.latest: FeedUpdate | None = None
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._poll(), name="campaign-feed")

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _poll(self) -> None:
        try:
            while True:
                tick = await self._look()
                if tick.differs(self.latest):
                    self.latest = tick
                    self.wake()
                await asyncio.sleep(self._pause_s(tick))
        except Exception:
            log.exception("a feed of a campaign has met what it does not know", campaign_id=str(self._campaign.id))
        finally:
            self.wake()

    async def _look(self) -> FeedUpdate:
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
    def _pause_s(tick: FeedUpdate) -> float:
        """Less than usual before the start: that it has begun is told at once."""
        if tick.counters is None or tick.counters.state is not CampaignState.BEFORE:
            return POLL_S
        return min(POLL_S, max(SOONEST_S, (tick.counters.starts_at_ms - tick.counters.now_ms) / 1000))
