"""The counters of campaigns, read from Redis by Redis' clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from issuer.campaigns.campaign import Campaign, CampaignState, derive_state, show_format
from issuer.contract.keys import batch_keys, partition_of
from issuer.instants import show_instant, to_ms
from issuer.pools.counters import COUNTER_FIELDS, PoolCounters, counters_from
from issuer.storage.redis_link import RedisUnavailableError, redis_errors_translated, time_ms
from issuer.storage.stores import Stores

_BATCH: Final = ("state", "paused", "starts_at_ms", "ends_at_ms")


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of one campaign at `now_ms`. `issued` and `remaining` are None while Redis is unavailable."""

    now_ms: int
    starts_at_ms: int
    state: CampaignState
    total: int
    issued: int | None

    @property
    def remaining(self) -> int | None:
        return None if self.issued is None else max(0, self.total - self.issued)


def show_campaign(campaign: Campaign, counters: Counters) -> dict[str, Any]:
    """Return a campaign as the API and the command line show it."""
    return {
        "id": campaign.id,
        "name": campaign.batch.name,
        "state": counters.state,
        "total": counters.total,
        "issued": counters.issued,
        "remaining": counters.remaining,
        **campaign.rate.to_json(),
        "starts_at": show_instant(campaign.starts_at),
        "paused": campaign.batch.paused,
        "public": campaign.public,
        "client_id": campaign.client_id,
        "client_name": campaign.client_name,
        "code_format": show_format(campaign.code_format),
        "created_at": show_instant(campaign.batch.created_at),
    }


async def read_counters(stores: Stores, campaigns: Sequence[Campaign]) -> list[Counters]:
    """Return the counters of each campaign, read in one round trip. Raises RedisUnavailableError."""
    pipeline = stores.redis.client.pipeline(transaction=False)
    pipeline.time()
    for campaign in campaigns:
        keys = batch_keys(partition_of(campaign.id, stores.redis.partitions), campaign.id)
        pipeline.hmget(keys.batch, list(_BATCH))
        pipeline.hmget(keys.pool(campaign.client_id), COUNTER_FIELDS)
    async with redis_errors_translated():
        now, *replies = await pipeline.execute()
    now_ms = time_ms(now)
    return [
        _counters(campaign, now_ms, batch, counters_from(pool))
        for campaign, batch, pool in zip(campaigns, replies[::2], replies[1::2], strict=True)
    ]


async def read_available_counters(stores: Stores, campaigns: Sequence[Campaign]) -> list[Counters]:
    """Return the counters of each campaign; while Redis is unavailable those of Postgres, by this host's clock."""
    try:
        return await read_counters(stores, campaigns)
    except RedisUnavailableError:
        return [_counters(campaign, int(time.time() * 1000), None, None) for campaign in campaigns]


def _counters(campaign: Campaign, now_ms: int, batch: Any, pool: PoolCounters | None) -> Counters:
    """Combine Postgres' campaign with Redis' batch and pool (None: Redis is unavailable)."""
    ended, paused = campaign.batch.expired, campaign.batch.paused
    starts_at_ms = to_ms(campaign.starts_at)
    if batch and batch[0] is not None:
        ends_at_ms = int(batch[3]) if batch[3] else None
        ended = batch[0] != b"open" or (ends_at_ms is not None and now_ms >= ends_at_ms)
        paused = batch[1] == b"1"
        starts_at_ms = int(batch[2]) if batch[2] else starts_at_ms
    issued, total = campaign.final_issued, campaign.total
    if issued is None and pool is not None:
        issued, total = pool.issued, max(total, pool.total)
    left = None if issued is None else max(0, total - issued)
    state = derive_state(
        ready=campaign.is_ready, ended=ended, paused=paused, starts_at_ms=starts_at_ms, now_ms=now_ms, left=left
    )
    return Counters(now_ms, starts_at_ms, state, total, issued)
