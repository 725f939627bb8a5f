"""Worker processes on real servers that are killed, frozen, cut off or fed bad entries: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from issuer.contract.events import EVENT_FORMAT, encode_who
from issuer.contract.keys import GROUP
from issuer.contract.scripts import REMOVE_CONSUMERS
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.postgres import UNAVAILABLE
from issuer.storage.stores import Stores
from sync_worker.reader import StreamReader
from tests.support.databases import TEMPLATE, fresh_redis_url, migrate_with_roles
from tests.support.issuing import LedgerShop, open_shop, plain_client
from tests.support.servers import PostgresServer, RedisServer
from tests.support.worker_process import WorkerProcess, eventually

SHORT_S = 1.0
"""Statement time limit for tests that wait until a worker counts as dead (after twice that time)."""


@pytest_asyncio.fixture
async def shop(stores: Stores, settings: Settings) -> AsyncIterator[LedgerShop]:
    with plain_client(settings.redis_url.get_secret_value()) as client:
        yield await open_shop(stores, client, codes=(5_000,))


async def drained(shop: LedgerShop, count: int) -> None:
    """Wait until `count` redemptions are in the ledger, nothing is left in Redis and there is no anomaly."""

    async def condition() -> bool:
        with suppress(*UNAVAILABLE):  # where a test has stopped Postgres
            return await shop.ledger_count() == count and shop.entries() == 0 and shop.backlog() == 0
        return False

    await eventually(condition, f"{count} redemptions in the ledger")
    assert await shop.stores.postgres.fetchval("SELECT count(*) FROM anomalies") == 0
    assert pending(shop) == 0


def pending(shop: LedgerShop) -> int:
    """Return the number of entries that workers have read and not acknowledged."""
    return int(shop.client.execute_command("XPENDING", shop.keys.stream, GROUP)["pending"])


@asynccontextmanager
async def locked(shop: LedgerShop, table: str) -> AsyncIterator[None]:
    """Block all writes to the table until the block ends."""
    async with shop.stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN SHARE MODE")
        yield


async def blocked_on(shop: LedgerShop, table: str) -> None:
    """Wait until a session waits for a lock on the table."""

    async def condition() -> bool:
        return bool(
            await shop.stores.postgres.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted)", table
            )
        )

    await eventually(condition, f"a session waits for {table}")


async def test_records_redemptions_in_the_ledger(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    assert shop.redeem_in_calls(20, 30) == 600
    with WorkerProcess(settings, tmp_path) as worker:
        await drained(shop, 600)
        assert shop.redeem_in_calls(5, 10) == 50
        await drained(shop, 650)
        assert worker.terminate() == 0


@pytest.mark.long
async def test_killed_before_the_insert(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    shop.redeem_in_calls(10, 10)
    async with locked(shop, "redemptions"):
        with WorkerProcess(settings, tmp_path, postgres_timeout_s=30) as worker:
            await blocked_on(shop, "redemptions")
            worker.kill9()
    assert shop.entries() == 10
    with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S):
        await drained(shop, 100)


@pytest.mark.long
async def test_killed_between_commit_and_ack(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    shop.redeem_in_calls(10, 10)
    with ExitStack() as stack:
        try:
            async with locked(shop, "redemptions"):
                worker = stack.enter_context(WorkerProcess(settings, tmp_path, postgres_timeout_s=30))
                await blocked_on(shop, "redemptions")
                # The entries are read; the ack, which writes, has to wait from here on.
                shop.client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            await committed(shop, 100)
            worker.kill9()
        finally:
            shop.client.execute_command("CLIENT", "UNPAUSE")
    assert shop.entries() == 10
    assert pending(shop) == 10
    with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S):
        await drained(shop, 100)


async def committed(shop: LedgerShop, count: int) -> None:
    async def condition() -> bool:
        return await shop.ledger_count() == count

    await eventually(condition, f"{count} redemptions committed")


@pytest.mark.long
async def test_killed_again_and_again(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    issued = 0
    for _ in range(4):
        issued += shop.redeem_in_calls(20, 5)
        with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S) as worker:
            before = await shop.ledger_count()

            async def moved(before: int = before) -> bool:
                return await shop.ledger_count() > before

            await eventually(moved, "the ledger grows")
            issued += shop.redeem_in_calls(10, 5)
            worker.kill9()
    with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S):
        await drained(shop, issued)


async def both_have_reported(shop: LedgerShop) -> bool:
    return bool(await shop.stores.postgres.fetchval("SELECT count(*) = 2 FROM workers"))


@pytest.mark.long
async def test_two_workers_share_the_streams(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    with WorkerProcess(settings, tmp_path / "a") as one, WorkerProcess(settings, tmp_path / "b") as other:
        # Without this wait a worker that is still starting would leave everything to the other, and end by the signal.
        await eventually(lambda: both_have_reported(shop), "both workers have reported")
        total = 0
        for _ in range(20):
            total += shop.redeem_in_calls(5, 10)
            await asyncio.sleep(0.01)
        await drained(shop, total)
        assert (one.terminate(), other.terminate()) == (0, 0)


@pytest.mark.long
async def test_entries_of_a_frozen_worker_are_claimed(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    shop.redeem_in_calls(10, 10)
    frozen = WorkerProcess(settings, tmp_path / "frozen", postgres_timeout_s=30)
    async with locked(shop, "redemptions"):
        frozen.start()
        await blocked_on(shop, "redemptions")
        frozen.freeze()
    with WorkerProcess(settings, tmp_path / "alive", postgres_timeout_s=SHORT_S):
        # The frozen worker's insert succeeds once the lock is released; its transaction stays open until it is ended.
        await shop.stores.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'issuer sync_worker' AND datname = current_database()"
            " AND state = 'idle in transaction'"
        )
        await drained(shop, 100)
        frozen.thaw()
        shop.redeem_in_calls(10, 10)
        await drained(shop, 200)
        assert frozen.terminate() == 0


def add_bad_entries(shop: LedgerShop) -> int:
    """Add entries that no script writes, among good ones. Return how many."""
    good = {"v": str(EVENT_FORMAT), "e": "1", "t": "1700000000000", "c": uuid.uuid4().hex, "s": "1", "n": "1"}
    who = encode_who(bytes(16), 0, None)

    def data(pool: int | str, seq: int | str, code: bytes) -> bytes:
        return f"R {pool} {seq} 1\n".encode() + len(code).to_bytes(2) + code + who

    pool = shop.pool_id
    entries: list[dict[str, str | bytes]] = [
        {"x": "y"},
        {**good, "v": str(EVENT_FORMAT - 1), "d": data(pool, 1, b"a")},
        {**good, "n": "2", "d": data(pool, 1, b"a")},
        {**good, "d": b"R 1"},
        {**good, "d": data(pool, 4_001, b"\xff\xfe")},
        {**good, "d": data(pool, 4_002, b"NUL \0 in it")},
        {**good, "d": data(2**63, 1, b"too large")},
        {**good, "d": data(-(2**80), 1, b"too small")},
        {**good, "d": data(987_654, 1, b"no such pool")},
        {**good, "d": data(pool, 4_003, b"not its code")},
        {**good, "d": data(pool, 90_000, b"no such seq")},
        {**good, "t": "9" * 18, "d": data(pool, 4_004, f"{pool}-4004-{shop.batch.hex[:6]}".encode())},
        {**good, "d": data(pool, 4_005, b"long" * 10_000)},
        {**good, "c": "not hexadecimal", "d": data(pool, 1, b"a")},
        {**good, "d": f"C {pool} 4006 1 1\n".encode() + who + b"\0\0"},
        {**good, "d": b"C 987654 1 1 1\n" + who + b"\0\x05order"},
        {**good, "d": f"C {pool} 4007 1 1\n".encode() + who + b"\0\x05cut"},
    ]
    for fields in entries:
        shop.client.xadd(shop.keys.stream, fields)  # type: ignore[arg-type]
        shop.redeem(3)
    return len(entries)


async def test_bad_entries_become_dead_letters_and_block_no_other(
    shop: LedgerShop, settings: Settings, tmp_path: Path
) -> None:
    count = add_bad_entries(shop)
    with WorkerProcess(settings, tmp_path):

        async def done() -> bool:
            return shop.entries() == 0

        await eventually(done, "the stream is empty")
    assert await shop.ledger_count() == count * 3
    letters = await shop.stores.postgres.fetch("SELECT * FROM dead_letters ORDER BY id")
    assert len(letters) == count
    assert all(letter["reason"] and letter["raw"] for letter in letters)
    assert shop.backlog() == 0
    kinds = await shop.stores.postgres.fetch("SELECT kind FROM anomalies ORDER BY kind")
    assert [row["kind"] for row in kinds] == ["unknown_seq", "wrong_code", "wrong_code", "wrong_code"]


@pytest.mark.long
async def test_pending_entries_that_were_deleted_are_an_anomaly(
    shop: LedgerShop, settings: Settings, tmp_path: Path
) -> None:
    shop.redeem_in_calls(3, 2)
    first = shop.client.execute_command("XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", shop.keys.stream, ">")
    assert first
    entries = shop.client.execute_command("XRANGE", shop.keys.stream, "-", "+")
    shop.client.xdel(shop.keys.stream, entries[1][0])
    with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S):

        async def seen() -> bool:
            return await shop.ledger_count() == 4 and bool(
                await shop.stores.postgres.fetchval("SELECT count(*) FROM anomalies WHERE kind = 'event_vanished'")
            )

        await eventually(seen, "the deletion is an anomaly")

        async def settled() -> bool:
            return pending(shop) == 0

        await eventually(settled, "nothing is pending")


@pytest.mark.long
async def test_postgres_stopped_and_started(settings: Settings, tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "postgres", durable=False) as server:
        server.psql(f"CREATE DATABASE {TEMPLATE}")
        alone = settings.model_copy(update={"database_url": SecretStr(server.url(TEMPLATE))})
        await migrate_with_roles(alone)
        with plain_client(settings.redis_url.get_secret_value()) as client:
            async with open_stores(alone) as stores:
                shop = await open_shop(stores, client, codes=(1_000,))
                with WorkerProcess(alone, tmp_path) as worker:
                    shop.redeem_in_calls(5, 10)
                    await drained(shop, 50)
                    server.kill9()
                    assert shop.redeem_in_calls(5, 10) == 50, "redemptions continue without Postgres"

                    async def noticed() -> bool:
                        return "Postgres:" in worker.log()

                    await eventually(noticed, "the worker logs it")
                    server.start()
                    await drained(shop, 100)
                    assert worker.terminate() == 0


@pytest.mark.long
async def test_sigterm_while_postgres_hangs_is_bounded(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    shop.redeem(5)
    async with locked(shop, "redemptions"):
        with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S) as worker:
            await blocked_on(shop, "redemptions")
            assert worker.terminate() == 0
    assert await shop.ledger_count() == 0
    with WorkerProcess(settings, tmp_path, postgres_timeout_s=SHORT_S):
        await drained(shop, 5)


async def test_sigterm_while_waiting_for_postgres(settings: Settings, tmp_path: Path) -> None:
    nowhere = settings.model_copy(update={"database_url": SecretStr("postgresql://127.0.0.1:1/none")})
    with WorkerProcess(nowhere, tmp_path) as worker:

        async def waiting() -> bool:
            return "waiting for Postgres" in worker.log()

        await eventually(waiting, "the worker waits")
        assert worker.terminate() == 0


async def test_refuses_another_number_of_partitions(stores: Stores, settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"partitions": stores.redis.partitions + 1})
    with WorkerProcess(other, tmp_path) as worker:
        assert await asyncio.to_thread(worker.process.wait, 60) == 1
        assert "the number of partitions cannot change" in worker.log()


async def test_entries_of_a_foreign_incarnation_are_not_acknowledged(
    shop: LedgerShop, settings: Settings, tmp_path: Path
) -> None:
    with WorkerProcess(settings, tmp_path) as worker:
        shop.redeem(3)
        await drained(shop, 3)
        await shop.stores.postgres.execute("UPDATE installation SET run_id = 'another', epoch = epoch + 1")
        shop.redeem(4)

        async def dropped() -> bool:
            return "foreign incarnation" in worker.log() or "not ready" in worker.log()

        await eventually(dropped, "the worker logs it")
        assert shop.entries() == 1
        assert await shop.ledger_count() == 3


async def test_reports_a_heartbeat(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    shop.redeem_in_calls(4, 5)
    with WorkerProcess(settings, tmp_path):
        await drained(shop, 20)

        async def reported() -> bool:
            return bool(
                await shop.stores.postgres.fetchval(
                    "SELECT EXISTS (SELECT FROM workers WHERE detail->>'inserted' = '20'"
                    " AND detail->>'lag_events' = '0' AND detail->>'error' = '')"
                )
            )

        await eventually(reported, "a heartbeat with the counts")


async def test_pushes_batches_that_redis_lacks(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    await shop.stores.postgres.execute("UPDATE batches SET paused = true, revision = 2 WHERE id = $1", shop.batch)
    with WorkerProcess(settings, tmp_path):

        async def paused() -> bool:
            return shop.redeem()[0].word == "PAUSED"

        await eventually(paused, "the batch is paused")


async def test_tops_up_pools(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    small = settings.model_copy(update={"pool_high_water": 100})
    await shop.stores.postgres.execute(
        "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
        " SELECT p.id, i, $2, p.client_id, 'more ' || i FROM pools p, generate_series(5001, 5200) i WHERE p.id = $1",
        shop.pool_id, shop.batch,
    )  # fmt: skip
    await shop.stores.postgres.execute("UPDATE pools SET total = 5200 WHERE id = $1", shop.pool_id)
    shop.redeem_in_calls(50, 100)
    with WorkerProcess(small, tmp_path):
        codes: set[str] = set()

        async def all_redeemed() -> bool:
            codes.update(answer.detail for answer in shop.redeem(20) if answer.word == "GRANTED")
            return len(codes) == 200

        await eventually(all_redeemed, "the pool is topped up")
        await drained(shop, 5_200)


async def test_entries_of_a_lost_reply_are_read_again(shop: LedgerShop, settings: Settings, tmp_path: Path) -> None:
    shop.redeem(3)
    with WorkerProcess(settings, tmp_path) as worker:
        await drained(shop, 3)
        name = json.loads(next(line for line in worker.log().splitlines() if '"reading the streams"' in line))[
            "consumer"
        ]
        async with locked(shop, "redemptions"):
            shop.redeem(1)
            await blocked_on(shop, "redemptions")
            shop.redeem(5)
            # As if the reply of the worker's read was lost: no read of new entries returns these.
            lost = shop.client.execute_command("XREADGROUP", "GROUP", GROUP, name, "STREAMS", shop.keys.stream, ">")
            assert lost
        await drained(shop, 9)


@pytest.mark.long
async def test_redis_killed_and_restarted(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        alone = settings.model_copy(update={"redis_url": SecretStr(server.url())})
        async with open_stores(alone) as stores:
            with plain_client(server.url()) as client:
                shop = await open_shop(stores, client, codes=(1_000,))
            with WorkerProcess(alone, tmp_path) as worker:
                total = 0
                for _ in range(3):
                    with plain_client(server.url()) as client:
                        shop.client = shop.partition.client = client
                        total += shop.redeem_in_calls(10, 5)
                        server.kill9()
                    server.start()

                    async def blessed() -> bool:
                        pair = stores.incarnations.blessed
                        return pair is not None and pair.run_id == server.run_id()

                    await eventually(blessed, "the restarted server is blessed")
                with plain_client(server.url()) as client:
                    shop.client = shop.partition.client = client
                    await drained(shop, total)
                    assert total == 150
                    assert worker.terminate() == 0


async def test_removes_idle_consumers_without_entries(shop: LedgerShop) -> None:
    shop.redeem_in_calls(2, 1)
    for name in ("idle", "busy"):
        shop.client.execute_command(
            "XREADGROUP", "GROUP", GROUP, name, "COUNT", 1, "STREAMS", shop.keys.stream, ">"
        )  # fmt: skip
    taken: Any = shop.client.xpending_range(shop.keys.stream, GROUP, "-", "+", 10, "idle")
    shop.client.xack(shop.keys.stream, GROUP, taken[0]["message_id"])

    async def remove(idle_ms: int) -> int:
        keys = (shop.keys.state, shop.keys.stream)
        return int((await shop.stores.redis.run(REMOVE_CONSUMERS, keys, (GROUP, idle_ms)))[1])

    assert await remove(3_600_000) == 0
    assert await remove(0) == 1
    consumers: Any = shop.client.xinfo_consumers(shop.keys.stream, GROUP)
    (left,) = consumers
    assert (left["name"], left["pending"]) == (b"busy", 1)


async def test_deletes_settled_registrations_of_replaced_epochs(
    shop: LedgerShop, settings: Settings, tmp_path: Path
) -> None:
    postgres = shop.stores.postgres
    await postgres.execute("DELETE FROM registrations")
    await postgres.execute(
        "INSERT INTO incarnations (epoch, run_id, server, verdict) VALUES (5, 'the last one', '{}', 'exact')"
    )
    await postgres.execute(
        "INSERT INTO registrations (journal_id, epoch, process, host, boot_id, has_journal, settled, settled_at)"
        " SELECT gen_random_uuid(), epoch, name, '', '', true, settled,"
        " CASE WHEN settled IS NOT NULL THEN now() - ago END"
        " FROM (VALUES ('old', interval '1 day', 4, '{}'::jsonb), ('recent', interval '1 s', 4, '{}'),"
        " ('last', interval '1 day', 5, '{}'), ('open', interval '1 day', 3, NULL)) AS r (name, ago, epoch, settled)"
    )
    with WorkerProcess(settings, tmp_path):

        async def deleted() -> bool:
            rows = await postgres.fetch("SELECT process FROM registrations ORDER BY process")
            return [row["process"] for row in rows] == ["last", "open", "recent"]

        await eventually(deleted, "the old one is deleted")


async def test_reader_works_with_redis_7_and_valkey(
    any_redis_server: RedisServer, settings: Settings, tmp_path: Path
) -> None:
    url = fresh_redis_url(any_redis_server)
    here = settings.model_copy(update={"redis_url": SecretStr(url)})
    with plain_client(url) as client:
        async with open_stores(here) as stores:
            shop = await open_shop(stores, client, codes=(100,))
            shop.redeem_in_calls(6, 2)
            client.execute_command(
                "XREADGROUP", "GROUP", GROUP, "dead", "COUNT", 3, "STREAMS", shop.keys.stream, ">"
            )  # fmt: skip
            entries = client.execute_command("XRANGE", shop.keys.stream, "-", "+")
            client.xdel(shop.keys.stream, entries[0][0])
            reader = StreamReader(here, stores.incarnations, min_idle_ms=0)
            await reader.open()
            claimed, new = await reader.claim(100), await reader.read_new(100, block=True)
            assert [len(batch.entries) for batch in (new, claimed)] == [3, 2]
            assert claimed.vanished == [(shop.number, entries[0][0].decode())]
            assert not await reader.read_new(100, block=False)
            assert len((await reader.read_own(100)).entries) == 5
            client.script_flush()
            assert await reader.ack(new, uuid.uuid4()) == 6
            assert await reader.ack(new, uuid.uuid4()) == 0, "an entry lowers the backlog once"
            replaced = uuid.uuid4()
            await reader.ack(new, replaced)
            assert await reader.ack(claimed, uuid.uuid4()) == 4
            assert replaced in stores.incarnations.lineage.seen
            assert (shop.entries(), pending(shop)) == (0, 0)
            await reader.close()
            gone = (await stores.redis.run(REMOVE_CONSUMERS, (shop.keys.state, shop.keys.stream), (GROUP, 0)))[1]
            assert gone == b"2"
        client.flushdb()
