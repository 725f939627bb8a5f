"""What Redis knows of pools: how many codes it has handed out, holds, and has heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_of
from issuer.storage.redis_link import redis_errors_translated
from issuer.storage.stores import Stores

_BATCH_SIZE: Final = 500


@dataclass(frozen=True, slots=True)
class PoolMeta:
    """`issued`: seq of the last code handed out; `loaded`: of the last one pushed; `total`: codes there are."""

    issued: int
    loaded: int
    total: int

    @property
    def stock(self) -> int:
        return self.loaded - self.issued


async def pool_metas(stores: Stores, pools: Sequence[tuple[UUID, UUID]]) -> list[PoolMeta | None]:
    """Of pools given as (batch, client); None for one that Redis does not have. Raises RedisUnavailableError."""
    found: list[PoolMeta | None] = []
    for at in range(0, len(pools), _BATCH_SIZE):
        pipeline = stores.redis.client.pipeline(transaction=False)
        for batch_id, client_id in pools[at : at + _BATCH_SIZE]:
            keys = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id)
            pipeline.hmget(keys.pool(client_id), ["issued", "loaded", "total"])
        async with redis_errors_translated():
            replies = await pipeline.execute()
        found += [None if reply[0] is None else PoolMeta(*map(int, reply)) for reply in replies]
    return found


async def codes_to_load(stores: Stores, batch_id: UUID, totals: Mapping[UUID, int]) -> int:
    """How many codes would go to Redis if the pools of these clients had these totals. Raises RedisUnavailableError."""
    metas = await pool_metas(stores, [(batch_id, client_id) for client_id in totals])
    high = stores.settings.pool_high_water
    goals = [
        min(total, meta.issued + high) - meta.loaded if meta else min(total, high)
        for total, meta in zip(totals.values(), metas, strict=True)
    ]
    return sum(max(0, goal) for goal in goals)
