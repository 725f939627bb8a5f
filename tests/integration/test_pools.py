"""Pools from Postgres to Redis: each code once and in order, with several loaders, killed loaders and late ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import uuid4

import pytest
import pytest_asyncio
from pydantic import SecretStr

from issuer.batches.store import Batch, BatchChanges, change_batch
from issuer.contract.keys import batch_keys, partition_of
from issuer.pools import loader as pools
from issuer.pools.loader import PoolLoader, load_pool
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import (
    BatchNotInRedisError,
    CodesMissingError,
    PoolClosedError,
    PoolLostError,
    PoolNotFoundError,
    find_pool,
)
from issuer.pools.top_up import top_up
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.failed_rows import list_failed_rows
from issuer.storage.stores import Stores
from issuer.storage.task_rows import TaskRows
from tests.support.loading import A, B, check_agreement, codes, issue, load, new_batch, pool_in_redis
from tests.support.servers import RedisServer

HIGH = 1_000


@pytest_asyncio.fixture
async def stores(settings: Settings) -> AsyncIterator[Stores]:
    """With room for 1,000 codes of a pool in Redis; below 500 it is topped up."""
    async with open_stores(settings.model_copy(update={"pool_high_water": HIGH})) as opened:
        yield opened


async def in_postgres_only(stores: Stores, batch: Batch, count: int, first: int = 1, prefix: str = "L") -> int:
    """Store codes as a loader leaves them that is killed before it reaches Redis. Return the pool's id."""
    pool_id = await stores.postgres.fetchval(
        "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3)"
        " ON CONFLICT (batch_id, client_id) DO UPDATE SET total = excluded.total RETURNING id",
        batch.id, A, first - 1 + count,
    )  # fmt: skip
    await stores.postgres.execute(
        "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
        " SELECT $1, n, $2, $5, $6 || n FROM generate_series($3::bigint, $3 + $4 - 1) AS n",
        pool_id, batch.id, first, count, A, prefix,
    )  # fmt: skip
    assert isinstance(pool_id, int)
    return pool_id


async def test_a_pool_is_opened_and_loaded_up_to_the_high_water_mark(stores: Stores) -> None:
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 3_000)
    reported: list[int] = []
    loaded = await load_pool(stores, pool_id, progress=reported.append)
    assert (loaded.pushed, loaded.loaded, loaded.issued, loaded.in_redis) == (HIGH, HIGH, 0, HIGH)
    assert sum(reported) == HIGH
    assert (await check_agreement(stores, batch.id, A)).total == 3_000
    pool = await find_pool(stores, pool_id)
    assert (pool.opened, pool.loaded, pool.total) == (True, HIGH, 3_000)
    assert (await load_pool(stores, pool_id)).pushed == 0


async def test_a_load_in_many_pushes(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BATCH_SIZE", 7)
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 100)
    assert (await load_pool(stores, pool_id, most=10)).pushed == 10
    assert (await check_agreement(stores, batch.id, A)).loaded == 10
    assert (await load_pool(stores, pool_id)).pushed == 90
    await check_agreement(stores, batch.id, A)


async def test_concurrent_loaders_of_one_pool_load_each_code_once(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "BATCH_SIZE", 7)
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, HIGH)
    results = await asyncio.gather(*(load_pool(stores, pool_id) for _ in range(4)))
    assert sum(result.pushed for result in results) == HIGH
    assert (await check_agreement(stores, batch.id, A)).loaded == HIGH


async def test_loaders_while_codes_are_issued(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BATCH_SIZE", 50)
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 4_000)
    await load_pool(stores, pool_id)
    for _ in range(8):
        await asyncio.gather(
            issue(stores, batch.id, A, 400), top_up(stores), load_pool(stores, pool_id), top_up(stores)
        )
        pool = await check_agreement(stores, batch.id, A)
        assert pool.loaded - pool.issued <= HIGH
    assert (await check_agreement(stores, batch.id, A)).issued == 3_200


async def test_a_top_up_fills_only_pools_that_run_low(stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, codes("A", 3_000) + codes("B", 400, B))
    assert await top_up(stores) == 0
    await issue(stores, batch.id, A, 500)
    assert await top_up(stores) == 0
    await issue(stores, batch.id, A, 1)
    assert await top_up(stores) == 501
    pool = await check_agreement(stores, batch.id, A)
    assert (pool.issued, pool.loaded) == (501, 1_501)
    await issue(stores, batch.id, B, 400)
    assert await top_up(stores) == 0
    assert (await check_agreement(stores, batch.id, B)).codes == []


async def test_a_top_up_reaches_the_end_and_then_has_nothing_to_do(stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, codes("A", 2_345))
    pool_id = await stores.postgres.fetchval("SELECT id FROM pools")
    for _ in range(4):
        await issue(stores, batch.id, A, 586)
        await top_up(stores)
    pool = await check_agreement(stores, batch.id, A)
    assert (pool.loaded, pool.total) == (2_345, 2_345)
    assert (await find_pool(stores, pool_id)).loaded == 2_345
    waiting = await stores.postgres.fetchval("SELECT count(*) FROM pools WHERE loaded < total")
    assert waiting == 0


async def test_a_top_up_finishes_the_load_of_a_killed_loader(stores: Stores) -> None:
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 300)
    assert await top_up(stores) == 300
    assert (await check_agreement(stores, batch.id, A)).loaded == 300
    # Another loader was killed between its push and its hint.
    await stores.postgres.execute("UPDATE pools SET loaded = 0 WHERE id = $1", pool_id)
    assert await top_up(stores) == 0
    assert (await find_pool(stores, pool_id)).loaded == 300


async def test_a_top_up_raises_the_total_in_redis_before_the_codes_are_needed(stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, codes("A", HIGH))
    await in_postgres_only(stores, batch, 100, first=HIGH + 1)
    assert await top_up(stores) == 0
    pool = await pool_in_redis(stores, batch.id, A)
    assert pool is not None
    assert (pool.loaded, pool.total) == (HIGH, HIGH + 100)


async def test_a_thorough_top_up_ignores_the_hint(stores: Stores) -> None:
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 300)
    await load_pool(stores, pool_id, most=100)
    await stores.postgres.execute("UPDATE pools SET loaded = 300 WHERE id = $1", pool_id)
    assert await top_up(stores) == 0
    assert await top_up(stores, thorough=True) == 200
    await check_agreement(stores, batch.id, A)


async def test_a_late_hint_does_not_outlive_an_epoch(stores: Stores) -> None:
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 300)
    loader = PoolLoader(stores, await find_pool(stores, pool_id), None)
    await loader.open()
    await loader.load(None, give_way=False)
    # A recovery comes in between: it empties the lists, and what the loader knows of them is no longer true.
    await stores.postgres.execute("UPDATE installation SET epoch = epoch + 1")
    await loader.leave_hint()
    assert (await find_pool(stores, pool_id)).loaded == 0


async def test_missing_codes_stop_the_load_and_no_code_is_renumbered(stores: Stores) -> None:
    batch, other = await new_batch(stores), await new_batch(stores, "other")
    pool_id = await in_postgres_only(stores, batch, 300)
    await stores.postgres.execute("DELETE FROM codes WHERE pool_id = $1 AND seq = 200", pool_id)
    await load_pool(stores, pool_id, most=100)
    with pytest.raises(CodesMissingError, match="199 codes where seqs 101 to 300"):
        await load_pool(stores, pool_id)
    pool = await pool_in_redis(stores, batch.id, A)
    assert pool is not None
    assert pool.codes == [f"L{seq}" for seq in range(1, 101)]
    # Other pools are still loaded by the worker.
    await in_postgres_only(stores, other, 10, prefix="M")
    async with aclosing(TaskRows(stores)) as rows:
        assert await top_up(stores, rows) == 10
    assert [row.row for row in await list_failed_rows(stores.postgres)] == [str(pool_id)]


async def test_a_pool_whose_counters_cannot_be_read_does_not_stop_the_others(stores: Stores) -> None:
    batch, other = await new_batch(stores), await new_batch(stores, "other")
    broken = await in_postgres_only(stores, batch, 10)
    await load_pool(stores, broken, most=5)
    keys = batch_keys(partition_of(batch.id, stores.redis.partitions), batch.id)
    await stores.redis.client.delete(keys.pool(A))
    await stores.redis.client.set(keys.pool(A), "no hash")
    await in_postgres_only(stores, other, 10, prefix="M")
    async with aclosing(TaskRows(stores)) as rows:
        assert await top_up(stores, rows) == 10
    (failed,) = await list_failed_rows(stores.postgres)
    assert (failed.task, failed.row) == ("top-up", str(broken))
    assert "WRONGTYPE" in failed.error


async def test_quarantined_codes_are_never_loaded(stores: Stores) -> None:
    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 300)
    await stores.postgres.execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 5, 1)", pool_id)
    # The pool starts after the quarantined codes.
    await load_pool(stores, pool_id)
    pool = await check_agreement(stores, batch.id, A)
    assert (pool.issued, pool.loaded) == (5, 300)
    await in_postgres_only(stores, batch, 10, first=301)
    await stores.postgres.execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 305, 1)", pool_id)
    with pytest.raises(CodesMissingError, match="1 of them quarantined"):
        await load_pool(stores, pool_id)
    await stores.postgres.execute("UPDATE quarantined SET released_at = now() WHERE seq = 305")
    assert (await load_pool(stores, pool_id)).loaded == 310


async def test_pools_that_cannot_be_loaded_raise_their_reason(stores: Stores) -> None:
    with pytest.raises(PoolNotFoundError):
        await load_pool(stores, 12345)

    batch = await new_batch(stores)
    pool_id = await in_postgres_only(stores, batch, 10)
    await load_pool(stores, pool_id)
    keys = batch_keys(partition_of(batch.id, stores.redis.partitions), batch.id)
    await stores.redis.client.delete(keys.pool(A), keys.codes(A))
    with pytest.raises(PoolLostError):
        await load_pool(stores, pool_id)
    assert await pool_in_redis(stores, batch.id, A) is None

    ended = await new_batch(stores, "ended")
    pool_id = await in_postgres_only(stores, ended, 10, prefix="M")
    await change_batch(stores, ended.id, BatchChanges(expired=True), actor="test")
    with pytest.raises(PoolClosedError):
        await load_pool(stores, pool_id)
    assert await top_up(stores) == 0

    unknown = uuid4()
    await stores.postgres.execute("INSERT INTO batches (partition, id, name) VALUES (0, $1, 'not in Redis')", unknown)
    pool_id = await stores.postgres.fetchval(
        "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, 1) RETURNING id", unknown, A
    )
    with pytest.raises(BatchNotInRedisError):
        await load_pool(stores, pool_id)
    assert not (await find_pool(stores, pool_id)).opened


async def test_a_full_redis_is_reported_and_the_load_continues_later(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with RedisServer(tmp_path_factory.mktemp("full-redis")) as server, server.client() as client:
        async with open_stores(settings.model_copy(update={"redis_url": SecretStr(server.url())})) as stores:
            batch = await new_batch(stores)
            pool_id = await in_postgres_only(stores, batch, 5_000)
            await load_pool(stores, pool_id, most=1_000)
            client.config_set("maxmemory", 1)
            with pytest.raises(RedisMemoryError):
                await load_pool(stores, pool_id)
            with pytest.raises(RedisMemoryError):
                await top_up(stores)
            assert (await check_agreement(stores, batch.id, A)).loaded == 1_000
            client.config_set("maxmemory", 0)
            assert await top_up(stores) == 4_000
            await check_agreement(stores, batch.id, A)
