"""Preloading CSV files: every row counted, seqs without gaps, all or nothing, repeated and concurrent loads."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from issuer.batches.store import BatchChanges, BatchEndedError, BatchNotFoundError, change_batch
from issuer.contract.keys import batch_keys, partition_of
from issuer.loading.duplicates import CREATE_REFUSED, FORCE_PROBES, REFUSE_IN_BATCH, REFUSE_OWNED
from issuer.loading.errors import HeaderRowError, PreloadError, SourceError
from issuer.loading.preload import preload_file
from issuer.loading.progress import Phase
from issuer.loading.report import UnfinishedLoadError
from issuer.loading.staging import TUNE, staging_table
from issuer.pools.memory import RedisMemoryError
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.loading import (
    A,
    B,
    check_agreement,
    codes,
    codes_in_postgres,
    csv_of,
    load,
    new_batch,
    pool_in_redis,
)
from tests.support.servers import RedisServer


async def _is_empty(stores: Stores) -> bool:
    return not await stores.postgres.fetchval("SELECT count(*) FROM codes") and not await stores.postgres.fetchval(
        "SELECT count(*) FROM pools"
    )


async def test_codes_of_two_clients_are_loaded_into_two_pools(stores: Stores) -> None:
    batch = await new_batch(stores)
    rows = [row for pair in zip(codes("A", 3_000), codes("B", 3_000, B), strict=True) for row in pair]
    report = await load(stores, batch, rows)

    assert (report.rows, report.loaded, report.rejected) == (6_000, 6_000, 0)
    assert (report.duplicates_in_file, report.duplicates_in_batch) == (0, 0)
    assert {(pool.client_id, pool.loaded, pool.total, pool.in_redis) for pool in report.pools} == {
        (A, 3_000, 3_000, 3_000), (B, 3_000, 3_000, 3_000)
    }  # fmt: skip
    assert report.redis_bytes > 6_000 * 8
    for client, prefix in ((A, "A"), (B, "B")):
        pool = await check_agreement(stores, batch.id, client)
        assert pool.codes == [code for _, code in codes(prefix, 3_000)]
        assert (pool.issued, pool.loaded, pool.total) == (0, 3_000, 3_000)


async def test_duplicates_in_the_file_and_in_the_batch_are_counted_separately(stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, [(A, "X1"), (B, "Y1")])
    report = await load(stores, batch, [(A, "X2"), (B, "X2"), (A, "X1"), (B, "X1"), (A, "Y1"), (B, "Y2"), (A, "X2")])
    assert (report.rows, report.loaded) == (7, 2)
    assert (report.duplicates_in_file, report.duplicates_in_batch) == (3, 2)
    assert await codes_in_postgres(stores, batch.id, A) == ["X1", "X2"]
    assert await codes_in_postgres(stores, batch.id, B) == ["Y1", "Y2"]


async def test_a_repeated_file_probes_the_index_despite_stale_statistics(stores: Stores) -> None:
    old, new = await new_batch(stores), await new_batch(stores)
    await load(stores, old, codes("OLD", 2_000))
    await stores.postgres.execute("ANALYZE codes")
    rows = codes("NEW", 2_000)
    await load(stores, new, rows)
    async with stores.postgres.acquire() as connection, staging_table(connection):
        records = [(n, 0, n, code, None) for n, (_, code) in enumerate(rows)]
        await connection.copy_records_to_table("staged", records=records)
        for statement, value in ((REFUSE_IN_BATCH, new.id), (REFUSE_OWNED, [A])):
            async with connection.transaction():
                await connection.execute(TUNE + ";" + CREATE_REFUSED + ";" + FORCE_PROBES)
                plan = [row[0] for row in await connection.fetch("EXPLAIN " + statement, value)]
                await connection.execute("DROP TABLE refused")
            assert sum("using codes_code_client_id_key" in line for line in plan) == 1, plan
            assert not any("Loop" in line or "Unique" in line for line in plan), plan
    assert (await load(stores, new, rows)).duplicates_in_batch == 2_000


async def test_a_repeated_file_adds_nothing(stores: Stores) -> None:
    batch = await new_batch(stores)
    rows = codes("A", 500) + codes("B", 500, B)
    await load(stores, batch, rows)
    before = [await check_agreement(stores, batch.id, client) for client in (A, B)]
    report = await load(stores, batch, rows)
    assert (report.loaded, report.duplicates_in_batch) == (0, 1_000)
    assert [(pool.loaded, pool.total) for pool in report.pools] == [(0, 500), (0, 500)]
    assert [await check_agreement(stores, batch.id, client) for client in (A, B)] == before


async def test_two_clients_may_have_the_same_code(stores: Stores) -> None:
    for client in (A, B):
        report = await load(stores, await new_batch(stores), codes("A", 10, client))
        assert report.loaded == 10


async def test_random_files_match_a_model(stores: Stores) -> None:
    batch = await new_batch(stores)
    dice = random.Random(7)
    pools: dict[object, list[str]] = {A: [], B: []}
    known: set[str] = set()
    for _ in range(4):
        rows = [(dice.choice((A, B)), f"C{dice.randrange(3_000)}") for _ in range(2_000)]
        in_file, in_batch, seen = 0, 0, set[str]()
        for client, code in rows:
            in_file += code in seen
            in_batch += code not in seen and code in known
            if code not in seen and code not in known:
                pools[client].append(code)
            seen.add(code)
        known |= seen
        report = await load(stores, batch, rows)
        assert (report.duplicates_in_file, report.duplicates_in_batch) == (in_file, in_batch)
        for client in (A, B):
            assert await codes_in_postgres(stores, batch.id, client) == pools[client]
            await check_agreement(stores, batch.id, client)


async def test_invalid_rows_do_not_affect_other_rows(stores: Stores) -> None:
    batch = await new_batch(stores)
    data = (
        csv_of(codes("A", 2)) + b"a\x00b,X\n" + csv_of([(A, "")]).partition(b"\n")[2] + b"%s,GOOD\n" % str(B).encode()
    )
    report = await preload_file(stores, io.BytesIO(data), batch_id=batch.id)
    assert (report.rows, report.loaded, report.rejected) == (5, 3, 2)
    assert [(rejection.line, rejection.reason) for rejection in report.rejections] == [
        (4, "bad client id"), (5, "empty code")
    ]  # fmt: skip
    assert report.to_json()["rejections"][0] == {"line": 4, "reason": "bad client id"}


async def test_unusual_codes_are_stored_unchanged(stores: Stores) -> None:
    batch = await new_batch(stores)
    odd = ["0007", "\\N", "\\.", "a\\tb", "é" * 255, "😀", "a b", "x" * 255, "%s", "{p00}", "1e5", "-1"]
    await load(stores, batch, [(A, code) for code in odd])
    assert (await check_agreement(stores, batch.id, A)).codes == odd


async def test_redis_is_filled_to_the_high_water_mark(settings: Settings) -> None:
    async with open_stores(settings.model_copy(update={"pool_high_water": 100})) as stores:
        batch = await new_batch(stores)
        report = await load(stores, batch, codes("A", 1_000))
        pool = await check_agreement(stores, batch.id, A)
        assert (pool.loaded, pool.total) == (100, 1_000)
        assert report.pools[0].in_redis == 100
        assert report.redis_bytes < 2_000


async def test_concurrent_loads_of_one_file_load_each_code_once(stores: Stores) -> None:
    batch = await new_batch(stores)
    rows = codes("A", 3_000) + codes("B", 3_000, B)
    reports = await asyncio.gather(load(stores, batch, rows), load(stores, batch, rows))
    assert sorted(report.loaded for report in reports) == [0, 6_000]
    for client in (A, B):
        assert (await check_agreement(stores, batch.id, client)).loaded == 3_000


async def test_a_code_loaded_concurrently_for_two_clients_is_stored_once(stores: Stores) -> None:
    batch = await new_batch(stores)
    reports = await asyncio.gather(load(stores, batch, codes("X", 2_000)), load(stores, batch, codes("X", 2_000, B)))
    assert sorted(report.loaded for report in reports) == [0, 2_000]
    assert await stores.postgres.fetchval("SELECT count(*) FROM codes") == 2_000


async def test_a_dry_run_counts_and_changes_nothing(stores: Stores) -> None:
    batch = await new_batch(stores)
    data = csv_of([*codes("A", 50), *codes("A", 20)]) + b"x\n"
    report = await preload_file(stores, io.BytesIO(data), batch_id=batch.id, dry_run=True)
    assert report.dry_run
    assert (report.loaded, report.duplicates_in_file, report.rejected) == (50, 20, 1)
    assert [(pool.loaded, pool.total) for pool in report.pools] == [(50, 50)]
    assert report.redis_bytes > 0
    assert await _is_empty(stores)
    assert await pool_in_redis(stores, batch.id, A) is None


async def test_a_dry_run_needs_no_batch(stores: Stores) -> None:
    report = await preload_file(stores, io.BytesIO(csv_of(codes("A", 50))), batch_id=None, dry_run=True)
    assert report.loaded == 50
    with pytest.raises(ValueError, match="only a dry run"):
        await preload_file(stores, io.BytesIO(b""), batch_id=None)


async def test_an_invalid_file_is_refused_and_nothing_is_stored(stores: Stores) -> None:
    batch = await new_batch(stores)
    with pytest.raises(HeaderRowError, match="the file needs the columns 'code' and 'client_id'"):
        await preload_file(stores, io.BytesIO(b"a,b\n1,2\n"), batch_id=batch.id)
    many = csv_of([(uuid4(), "X") for _ in range(10_001)])
    with pytest.raises(PreloadError, match="more than 10,000 clients"):
        await preload_file(stores, io.BytesIO(many), batch_id=batch.id)
    with pytest.raises(BatchNotFoundError):
        await preload_file(stores, io.BytesIO(csv_of(codes("A", 1))), batch_id=uuid4())
    assert await _is_empty(stores)
    assert (await load(stores, batch, codes("A", 10))).loaded == 10


async def test_an_ended_batch_accepts_no_codes(stores: Stores) -> None:
    batch = await new_batch(stores)
    await change_batch(stores, batch.id, BatchChanges(expired=True), actor="test")
    with pytest.raises(BatchEndedError):
        await load(stores, batch, codes("A", 1))
    assert await _is_empty(stores)


async def test_a_source_in_pieces_is_loaded_and_a_broken_one_is_refused(stores: Stores) -> None:
    batch = await new_batch(stores)
    data = csv_of(codes("A", 5_000))

    async def pieces(end: int) -> AsyncIterator[bytes]:
        for at in range(0, end, 777):
            yield data[at : at + 777]
        if end < len(data):
            raise ConnectionResetError("the client disconnected")

    with pytest.raises(SourceError, match="the client disconnected"):
        await preload_file(stores, pieces(50_000), batch_id=batch.id)
    assert await _is_empty(stores)
    report = await preload_file(stores, pieces(len(data)), batch_id=batch.id)
    assert report.loaded == 5_000


async def test_a_cancelled_load_stores_nothing(stores: Stores) -> None:
    batch = await new_batch(stores)
    numbering = asyncio.Event()

    def progress(phase: Phase, _done: int, _of: int | None) -> None:
        if phase is Phase.NUMBERING:
            numbering.set()

    source = io.BytesIO(csv_of(codes("A", 20_000)))
    task = asyncio.create_task(preload_file(stores, source, batch_id=batch.id, progress=progress))
    await numbering.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _is_empty(stores)
    assert (await load(stores, batch, codes("A", 10))).loaded == 10


async def test_progress_is_reported(stores: Stores) -> None:
    batch = await new_batch(stores)
    steps: list[tuple[Phase, int, int | None]] = []
    data = csv_of(codes("A", 9_000))
    await preload_file(
        stores, io.BytesIO(data), batch_id=batch.id, progress=lambda phase, done, of: steps.append((phase, done, of))
    )
    read = [done for phase, done, _ in steps if phase is Phase.READING]
    assert read[-1] == len(data)
    assert steps[-1] == (Phase.LOADING, 9_000, 9_000)


async def test_a_batch_that_is_missing_in_redis_is_pushed(stores: Stores) -> None:
    batch_id = uuid4()
    await stores.postgres.execute("INSERT INTO batches (partition, id, name) VALUES (0, $1, 'incomplete')", batch_id)
    report = await preload_file(stores, io.BytesIO(csv_of(codes("A", 10))), batch_id=batch_id)
    assert report.pools[0].in_redis == 10
    await check_agreement(stores, batch_id, A)


async def test_a_pool_lost_in_redis_is_reported_and_not_recreated(stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, codes("A", 10))
    keys = batch_keys(partition_of(batch.id, stores.redis.partitions), batch.id)
    await stores.redis.client.delete(keys.pool(A), keys.codes(A))
    with pytest.raises(UnfinishedLoadError, match="missing in Redis") as unfinished:
        await load(stores, batch, codes("A", 10, first=11))
    assert unfinished.value.report.loaded == 10
    assert len(await codes_in_postgres(stores, batch.id, A)) == 20
    assert await pool_in_redis(stores, batch.id, A) is None


async def test_a_load_is_in_the_audit_log(stores: Stores) -> None:
    batch = await new_batch(stores)
    source = io.BytesIO(csv_of(codes("A", 10)))
    await preload_file(stores, source, batch_id=batch.id, actor="cli:ann")
    row = await stores.postgres.fetchrow("SELECT actor, subject, detail FROM audit_log WHERE action = 'codes.load'")
    assert row is not None
    assert (row["actor"], row["subject"]) == ("cli:ann", f"batch:{batch.id}")
    assert '"loaded": 10' in row["detail"]


@pytest.mark.long
async def test_codes_that_do_not_fit_into_redis_are_refused_before_any_write(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with RedisServer(tmp_path_factory.mktemp("small-redis")) as server, server.client() as client:
        small = settings.model_copy(update={"redis_url": SecretStr(server.url())})
        async with open_stores(small) as stores:
            batch = await new_batch(stores)
            await load(stores, batch, codes("A", 1_000))
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory", used + 1_000_000)
            with pytest.raises(RedisMemoryError, match="maxmemory"):
                await load(stores, batch, [(A, f"{number:0200d}") for number in range(20_000)])
            assert await stores.postgres.fetchval("SELECT count(*) FROM codes") == 1_000
            client.config_set("maxmemory", used + 50_000_000)
            assert (await load(stores, batch, codes("B", 2_000))).loaded == 2_000
        # Only codes that will be loaded into Redis count.
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 1_000_000)
        async with open_stores(small.model_copy(update={"pool_high_water": 4_000})) as stores:
            report = await load(stores, batch, [(A, f"{number:0200d}") for number in range(20_000)])
            assert report.loaded == 20_000
            assert (await check_agreement(stores, batch.id, A)).loaded == 4_000


async def test_a_broken_pool_does_not_prevent_loading_the_others(stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, codes("A", 10))
    await stores.postgres.execute("DELETE FROM codes WHERE seq = 10")
    keys = batch_keys(partition_of(batch.id, stores.redis.partitions), batch.id)
    await stores.redis.client.hset(keys.pool(A), "loaded", 9)
    await stores.redis.client.rpop(keys.codes(A))
    with pytest.raises(UnfinishedLoadError, match="1 codes where seqs 10 to 11") as unfinished:
        await load(stores, batch, [(A, "LATE"), *codes("B", 10, B)])
    assert [(pool.client_id, pool.in_redis) for pool in unfinished.value.report.pools] == [(B, 10)]
    await check_agreement(stores, batch.id, B)


@pytest.mark.long
async def test_a_file_with_many_clients_is_loaded(stores: Stores) -> None:
    batch = await new_batch(stores)
    clients = [uuid4() for _ in range(200)]
    report = await load(stores, batch, [(client, f"C{n}-{client}") for n in range(3) for client in clients])
    assert report.loaded == 600
    assert {pool.client_id for pool in report.pools} == set(clients)
    for client in clients[::20]:
        assert (await check_agreement(stores, batch.id, client)).loaded == 3
