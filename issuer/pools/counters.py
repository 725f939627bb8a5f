"""The counters of pools in Redis, and the one reader of the hash that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_of
from issuer.storage.redis_link import Redis, redis_errors_translated
from issuer.storage.stores import Stores

COUNTER_FIELDS: Final = ("issued", "loaded", "total")
"""What a reader asks of a pool's hash, in the order in which `counters_from` takes it."""
_BATCH_SIZE: Final = 500


@dataclass(frozen=True, slots=True)
class PoolCounters:
    """One pool as Redis counts it.

    `issued` is the seq of the last code popped, `loaded` that of the last code pushed, `total` the number of codes.
    The script that changes one of them changes the list in the same step: a reader never sees one without the other.
    """

    issued: int
    loaded: int
    total: int

    @property
    def in_redis(self) -> int:
        """Length of the pool's list."""
        return self.loaded - self.issued


NOT_IN_REDIS: Final = PoolCounters(0, 0, 0)
"""For readers to whom a pool that Redis does not have is one from which no code was issued."""


def counters_from(reply: Sequence[bytes | None]) -> PoolCounters | None:
    """Convert the reply of HMGET with COUNTER_FIELDS; None for a pool that Redis does not have."""
    issued, loaded, total = reply
    if issued is None or loaded is None or total is None:
        return None
    return PoolCounters(int(issued), int(loaded), int(total))


async def read_pool_counters(redis: Redis, pools: Sequence[tuple[UUID, UUID]]) -> list[PoolCounters | None]:
    """Return the counters of pools given as (batch, client), in that order; None for one that Redis does not have.

    One round trip for 500 pools. Raises RedisUnavailableError.
    """
    found: list[PoolCounters | None] = []
    for at in range(0, len(pools), _BATCH_SIZE):
        pipeline = redis.client.pipeline(transaction=False)
        for batch_id, client_id in pools[at : at + _BATCH_SIZE]:
            keys = batch_keys(partition_of(batch_id, redis.partitions), batch_id)
            pipeline.hmget(keys.pool(client_id), COUNTER_FIELDS)
        async with redis_errors_translated():
            replies = await pipeline.execute()
        found += map(counters_from, replies)
    return found


async def codes_to_load(stores: Stores, batch_id: UUID, totals: Mapping[UUID, int]) -> int:
    """Return how many codes a load would push if the pools of these clients had these totals.

    Raises RedisUnavailableError.
    """
    found = await read_pool_counters(stores.redis, [(batch_id, client_id) for client_id in totals])
    high = stores.settings.pool_high_water
    missing = [
        min(total, counters.issued + high) - counters.loaded if counters else min(total, high)
        for total, counters in zip(totals.values(), found, strict=True)
    ]
    return sum(max(0, count) for count in missing)
