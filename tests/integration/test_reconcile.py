"""Reconciliation finds what is missing or doubled, and nothing else, also while codes are redeemed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from issuer.contract.keys import GROUP, batch_keys, partition_keys
from issuer.contract.scripts import ACK_EVENTS
from issuer.ledger.partition_balance import PartitionBalance
from issuer.ledger.reconcile import PoolBalance, reconcile
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import run_command
from tests.support.issuing import LedgerShop, open_shop, plain_client
from tests.support.recording import record_in_ledger
from tests.support.recovery import drain as record_and_acknowledge
from tests.support.worker_process import WorkerProcess, eventually


@pytest_asyncio.fixture
async def shop(stores: Stores, settings: Settings) -> AsyncIterator[LedgerShop]:
    with plain_client(settings.redis_url.get_secret_value()) as client:
        yield await open_shop(stores, client, codes=(3_000, 50))


async def balance(shop: LedgerShop) -> PoolBalance:
    """Return the balance of the first pool; the others must hold."""
    first, *others = (await reconcile(shop.stores, batch_id=shop.batch)).pools
    assert first.pool_id == shop.pool_id
    assert all(other.holds for other in others)
    return first


def figures(pool: PoolBalance) -> tuple[int, int, int, int, int]:
    return pool.ledger, pool.backlog, pool.quarantined, pool.dead_letters, pool.issued


async def of_partition(shop: LedgerShop) -> PartitionBalance:
    """Return the balance of the shop's partition; all pools and the other partitions must hold."""
    result = await reconcile(shop.stores)
    assert all(pool.holds for pool in result.pools)
    assert [partition.partition for partition in result.partitions] == list(range(shop.stores.redis.partitions))
    found = result.partitions.pop(shop.number)
    assert all(partition.holds for partition in result.partitions)
    return found


async def drain(shop: LedgerShop) -> None:
    """Record and acknowledge everything, as the worker does."""
    await record_in_ledger(shop, shop.columns())
    entries = shop.client.execute_command("XRANGE", shop.keys.stream, "-", "+")
    acks = [part for entry_id, fields in entries for part in (entry_id, int(fields[b"n"]))]
    await shop.stores.redis.run(ACK_EVENTS, (shop.keys.state, shop.keys.stream), (GROUP, "", *acks))


async def test_nothing_was_issued(shop: LedgerShop) -> None:
    pool = await balance(shop)
    assert pool.holds
    assert figures(pool) == (0, 0, 0, 0, 0)


async def test_ledger_and_backlog_add_up(shop: LedgerShop) -> None:
    shop.redeem_in_calls(5, 10)
    await drain(shop)
    shop.redeem_in_calls(3, 10)
    pool = await balance(shop)
    assert pool.holds
    assert figures(pool) == (50, 30, 0, 0, 80)


async def test_an_event_in_stream_and_ledger_counts_once(shop: LedgerShop) -> None:
    shop.redeem_in_calls(5, 10)
    await record_in_ledger(shop, shop.columns().slice(0, 25))
    pool = await balance(shop)
    assert pool.holds
    assert figures(pool) == (25, 25, 0, 0, 50)


async def test_quarantined_seqs_and_dead_letters_count(shop: LedgerShop) -> None:
    shop.redeem(10)
    await drain(shop)
    execute = shop.stores.postgres.execute
    await execute("DELETE FROM redemptions WHERE seq IN (2, 3, 4)")
    await execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 2, 1)", shop.pool_id)
    await execute(
        "INSERT INTO quarantined (pool_id, seq, epoch, released_at, released_as) VALUES ($1, 3, 1, now(), 3001)",
        shop.pool_id,
    )
    await execute(
        "INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw)"
        " VALUES (0, '1-1', 1, $1, 4, 'x', '{}')",
        shop.pool_id,
    )
    pool = await balance(shop)
    assert pool.holds
    # A released seq is void: its code has another one.
    assert (figures(pool), pool.void) == ((7, 0, 1, 1, 10), 1)


async def test_every_serial_of_a_partition_is_in_one_place(shop: LedgerShop) -> None:
    """Recorded, a dead letter of a fact and of an entry, in the stream, and between stream and ledger."""
    execute = shop.stores.postgres.execute
    shop.redeem_in_calls(4, 10)
    await record_in_ledger(shop, shop.columns().slice(0, 29))
    await execute(
        "INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw, serial)"
        " VALUES ($1, '1-1', 1, $2, 30, 'x', '{}', 30)",
        shop.number, shop.pool_id,
    )  # fmt: skip
    found = await of_partition(shop)
    assert (found.recorded, found.backlog, found.dead_letters, found.serial) == (29, 10, 1, 40)
    assert found.holds
    # An entry that cannot be read is in no pool, but its serials are known.
    await drain(shop)
    await execute("DELETE FROM dead_letters")
    unreadable: Any = {"v": "4", "e": "1", "t": "1", "s": "41", "n": "7", "c": "?", "d": "?"}
    shop.client.xadd(shop.keys.stream, unreadable)
    shop.client.hincrby(shop.keys.state, "serial", 7)
    assert (found := await of_partition(shop)).holds
    assert (found.recorded, found.backlog, found.serial) == (40, 7, 47)
    # What no count shows.
    await execute("UPDATE redemptions SET serial = 7 WHERE serial = 8")
    assert (await of_partition(shop)).problems == ["some serials are accounted for twice, and as many are missing"]
    await execute("UPDATE redemptions SET serial = 8 WHERE seq = 8")
    # What no pool shows: a fact without its serial, one that was granted twice.
    shop.client.hincrby(shop.keys.state, "serial", 2)
    assert (await of_partition(shop)).problems == ["2 serials are missing"]
    shop.client.hincrby(shop.keys.state, "serial", -3)
    assert (await of_partition(shop)).problems == ["1 serial is accounted for twice"]


@pytest.mark.parametrize("seqs", [[1], [17], [50], [1, 17, 50]])
async def test_a_deleted_ledger_row_is_reported(shop: LedgerShop, seqs: list[int]) -> None:
    shop.redeem_in_calls(5, 10)
    await drain(shop)
    await shop.stores.postgres.execute("DELETE FROM redemptions WHERE seq = ANY($1)", seqs)
    pool = await balance(shop)
    assert not pool.holds
    assert pool.missing == seqs
    assert pool.doubled == []
    assert pool.problems == ["1 seq is missing" if len(seqs) == 1 else f"{len(seqs)} seqs are missing"]


async def test_a_seq_in_two_places_is_reported(shop: LedgerShop) -> None:
    shop.redeem(10)
    await drain(shop)
    await shop.stores.postgres.execute("DELETE FROM redemptions WHERE seq = 9")
    await shop.stores.postgres.execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 4, 1)", shop.pool_id)
    pool = await balance(shop)
    assert pool.accounted == pool.issued, "the sum does not show it"
    assert not pool.holds
    assert (pool.missing, pool.doubled) == ([9], [4])


async def test_a_seq_twice_in_the_stream_is_reported(shop: LedgerShop) -> None:
    shop.redeem(3)
    ((_, fields),) = shop.client.execute_command("XRANGE", shop.keys.stream, "-", "+")
    shop.client.xadd(shop.keys.stream, fields)
    pool = await balance(shop)
    assert not pool.holds
    assert pool.doubled == [1, 2, 3]


async def test_a_lost_event_is_reported(shop: LedgerShop) -> None:
    shop.redeem(2)
    shop.redeem(3)
    first, _ = shop.client.execute_command("XRANGE", shop.keys.stream, "-", "+")
    shop.client.xdel(shop.keys.stream, first[0])
    assert (await balance(shop)).missing == [1, 2]


async def test_another_code_in_the_ledger_is_reported(shop: LedgerShop) -> None:
    shop.redeem(5)
    await drain(shop)
    await shop.stores.postgres.execute("UPDATE redemptions SET code = 'another' WHERE seq = 3")
    pool = await balance(shop)
    assert not pool.holds
    assert pool.wrong_code == [3]


async def test_a_seq_that_was_never_issued_is_reported(shop: LedgerShop) -> None:
    shop.redeem(5)
    await drain(shop)
    await shop.stores.postgres.execute("UPDATE redemptions SET seq = 2999 WHERE seq = 5")
    pool = await balance(shop)
    assert pool.missing == [5]
    assert any("2999" in problem for problem in pool.problems)


async def test_a_pool_that_redis_lacks_is_reported(shop: LedgerShop) -> None:
    client_id = next(iter(shop.pools))
    shop.client.delete(batch_keys(shop.number, shop.batch).pool(client_id))
    pool = await balance(shop)
    assert pool.problems == ["the pool is missing in Redis"]


async def test_freed_batches_are_balanced_from_postgres_alone(shop: LedgerShop) -> None:
    shop.redeem(5)
    await drain(shop)
    for client_id, pool_id in shop.pools.items():
        shop.client.delete(batch_keys(shop.number, shop.batch).pool(client_id))
        issued = 5 if pool_id == shop.pool_id else 0
        await shop.stores.postgres.execute("UPDATE pools SET final_issued = $2 WHERE id = $1", pool_id, issued)
    assert figures(await balance(shop)) == (5, 0, 0, 0, 5)
    await shop.stores.postgres.execute("DELETE FROM redemptions WHERE seq = 5")
    assert (await balance(shop)).missing == [5]


async def test_unreadable_entries_are_counted(shop: LedgerShop) -> None:
    shop.redeem(2)
    shop.client.xadd(shop.keys.stream, {"n": "1"})
    for _ in ("in the stream", "a dead letter"):
        found = await reconcile(shop.stores)
        # The script has not written it, so it has no serial, and it is in the place of none.
        assert found.unreadable == 1
        assert found.holds
        await record_and_acknowledge(shop.stores)


@pytest.mark.long
async def test_holds_at_every_moment_of_a_run(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    async def ledger_has(count: int) -> bool:
        return (await balance(shop)).ledger == count

    with WorkerProcess(settings, tmp_path):
        count = shop.redeem_in_calls(5, 3)
        await eventually(lambda: ledger_has(15), "the worker is at it")
        redeeming = asyncio.create_task(asyncio.to_thread(shop.redeem_in_calls, 300, 3))
        backlogs = set()
        while not redeeming.done():
            pool = await balance(shop)
            assert pool.holds, pool
            backlogs.add(pool.backlog)
        count += await redeeming
        await eventually(lambda: ledger_has(count), "all of it is in the ledger")
    assert max(backlogs) > 0
    assert count == 915


async def test_the_command(shop: LedgerShop, settings: Settings) -> None:
    shop.redeem(12)
    await drain(shop)
    status, output = await run_command(settings, "reconcile")
    assert status == 0, output
    assert (
        f"ok    pool {shop.pool_id}: ledger 12 + backlog 0 + quarantined 0 + dead letters 0 = 12, issued 12" in output
    )
    await shop.stores.postgres.execute("DELETE FROM redemptions WHERE seq IN (6, 12)")
    status, output = await run_command(settings, "reconcile")
    assert status == 1
    assert f"WRONG pool {shop.pool_id}" in output
    assert str(shop.batch) in output
    assert "missing seqs: 6, 12" in output
    status, output = await run_command(settings, "reconcile", "--json", "--batch-id", str(shop.batch))
    assert status == 1
    shown = orjson.loads(output)
    assert shown["pools"][0]["missing"] == [6, 12]
    name = await shop.stores.postgres.fetchval("SELECT name FROM batches")
    status, output = await run_command(settings, "reconcile", "--batch", name, "--json")
    assert (status, orjson.loads(output)["pools"]) == (1, shown["pools"])
    status, output = await run_command(settings, "reconcile", "--batch-id", str(uuid.uuid4()))
    assert status == 2, output


async def test_a_partition_of_another_epoch_is_recovered_before_it_is_balanced(own_settings: Settings) -> None:
    """On a server that syncs every write, so that the recovery is a restart and the backlog stays in the stream."""
    async with open_stores(own_settings) as stores:
        with plain_client(own_settings.redis_url.get_secret_value()) as client:
            shop = await open_shop(stores, client, codes=(3_000, 50))
            shop.redeem(3)
            state = partition_keys(shop.number).state
            client.hset(state, "epoch", "77")
            status, output = await run_command(own_settings, "reconcile", "--batch-id", str(shop.batch))
            assert status == 0, output
            assert "backlog 3" in output
            epoch = await stores.postgres.fetchval("SELECT epoch FROM installation")
            assert client.hget(state, "epoch") == str(epoch).encode()
