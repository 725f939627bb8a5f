"""A recovery works on sets: what it asks of the stores does not grow with the number of batches."""

from __future__ import annotations

import uuid
from collections import Counter
from typing import Any

import asyncpg
import pytest
import redis.asyncio as aioredis

from issuer.contract.keys import partition_of
from issuer.pools.top_up import top_up
from issuer.recovery.aftermath import finish_recoveries
from issuer.recovery.opening import GuardedStores, open_stores
from issuer.settings import Settings
from issuer.storage.redis_link import Link
from issuer.storage.task_rows import TaskRows
from tests.support.recovery import CLIENT, blessed_again, kill_unheard, verdict
from tests.support.servers import RedisServer

CODES = 60

_BATCHES = """
WITH made AS (
  INSERT INTO batches (id, partition, name, rules)
  SELECT id, partition, 'many', '{"maxpercustomer": 1}' FROM unnest($1::uuid[], $2::int[]) AS e(id, partition)
  RETURNING id), pools AS (
  INSERT INTO pools (batch_id, client_id, total, opened) SELECT id, $3, $4, true FROM made RETURNING id, batch_id)
INSERT INTO codes (pool_id, seq, batch_id, client_id, code)
SELECT p.id, seq, batch_id, $3, p.id || '-' || seq FROM pools p, generate_series(1, $4::bigint) AS seq"""

# The second code of each pool was redeemed, so the first one is void.
_REDEMPTIONS = """
INSERT INTO redemptions
  (pool_id, seq, batch_id, code, customer_id, redeemed_at, call_id, key_hash, api_key_id, epoch, serial)
SELECT pool_id, seq, batch_id, code, gen_random_uuid(), now(), gen_random_uuid(), convert_to(code, 'UTF8'), 1, 1,
  pool_id
FROM codes WHERE seq = 2 ON CONFLICT DO NOTHING"""


async def make_batches(stores: GuardedStores, count: int) -> None:
    ids = [uuid.uuid4() for _ in range(count)]
    partitions = [partition_of(batch_id, stores.redis.partitions) for batch_id in ids]
    await stores.postgres.execute(_BATCHES, ids, partitions, CLIENT, CODES)
    await stores.postgres.execute(_REDEMPTIONS)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the statements and the round trips of this process."""
    counted = Counter[str]()

    def count(owner: type, store: str, *names: str) -> None:
        for name in names:
            monkeypatch.setattr(owner, name, counting(getattr(owner, name), store))

    def counting(real: Any, store: str) -> Any:
        def counts(*args: Any, **options: Any) -> Any:
            counted[store] += 1
            return real(*args, **options)

        return counts

    count(asyncpg.Connection, "postgres", "execute", "executemany", "fetch", "fetchrow", "fetchval", "cursor")
    count(Link, "redis", "call")
    count(aioredis.Redis, "redis", "execute_command")
    count(aioredis.client.Pipeline, "redis", "execute")
    return counted


async def recover(stores: GuardedStores, server: RedisServer) -> int:
    """Lose all data and do what follows. Return the number of codes that Redis has in the end."""
    with server.client() as client:
        client.flushall()
        await blessed_again(stores)
        rows = TaskRows(stores)
        await top_up(stores, rows)
        await finish_recoveries(stores)
        await top_up(stores, rows)
        await rows.aclose()
        return sum(client.llen(key) for key in client.scan_iter(count=10_000) if client.type(key) == b"list")


@pytest.mark.long
async def test_a_recovery_asks_no_more_of_the_stores_for_more_batches(
    own_settings: Settings, own_redis: RedisServer, asked: Counter[str]
) -> None:
    # Short beats: what is asked while processes are heard depends on the time.
    async with open_stores(own_settings.model_copy(update={"heartbeat_ms": 10})) as stores:
        few, many = Counter[str](), Counter[str]()
        for count, counted in ((30, few), (270, many)):
            await make_batches(stores, count)
            batches = await stores.postgres.fetchval("SELECT count(*) FROM batches")
            asked.clear()
            # The last codes come back at the tail, in the place of void seqs.
            # Those of before have the codes left that their quarantine left them.
            left = count * (CODES - 1) + (batches - count) * 9
            assert (await recover(stores, own_redis), await verdict(stores)) == (left, "exact")
            await kill_unheard(stores)
            assert (await recover(stores, own_redis), await verdict(stores)) == (count * 9, "bounded")
            counted.update(asked)
        # The groups of pools are of 100: there are two more of them, three times.
        assert all(many[store] < few[store] + 135 for store in ("postgres", "redis")), (few, many)
