"""A client has a code once, whatever batch it is in: loads, generated codes, campaigns, moves out of ended batches."""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from issuer.batches.batch import NewBatch
from issuer.batches.store import Batch, BatchChanges, BatchEndedError, change_batch, create_batch
from issuer.batches.tombstones import free_ended_batches
from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.generating.code_format import CodeSpaceError, parse_code_format
from issuer.generating.job_runner import generate_codes
from issuer.generating.jobs import JobState
from issuer.generating.request import GenerationRequest
from issuer.ledger.reconcile import reconcile
from issuer.loading.moves import MoveError
from issuer.loading.preload import preload_file
from issuer.loading.report import OtherBatch, PreloadReport, RepeatedRow, RowInOtherBatch
from issuer.storage.stores import Stores
from tests.support.loading import A, B, check_agreement, codes, codes_in_postgres, csv_of, issue, load, new_batch


async def load_new(stores: Stores, rows: list[tuple[UUID, str]], name: str = "new", **options: Any) -> PreloadReport:
    return await preload_file(stores, io.BytesIO(csv_of(rows)), new_batch=NewBatch(name), actor="test", **options)


async def end(stores: Stores, batch: Batch) -> None:
    await change_batch(stores, batch.id, BatchChanges(expired=True), actor="test")


async def drained(stores: Stores, batch: Batch) -> None:
    await end(stores, batch)
    await free_ended_batches(stores)
    assert await stores.postgres.fetchval("SELECT drained_at IS NOT NULL FROM batches WHERE id = $1", batch.id)


async def count(stores: Stores, table: str) -> int:
    return int(await stores.postgres.fetchval(f"SELECT count(*) FROM {table}"))


async def test_codes_in_another_batch_are_reported_by_row_and_by_batch(stores: Stores) -> None:
    one, two, new = await new_batch(stores, "One"), await new_batch(stores, "Two"), await new_batch(stores, "New")
    await load(stores, one, codes("A", 3) + codes("B", 1, B))
    await load(stores, two, [(A, "X")])
    await end(stores, two)
    # The same text of another client is another code.
    report = await load(stores, new, [*codes("A", 2), (A, "N"), (A, "X"), (B, "A0000003"), (A, "N"), (B, "A0000001")])
    assert (report.rows, report.loaded, report.rejected) == (7, 2, 0)
    assert (report.duplicates_in_file, report.duplicates_in_batch, report.duplicates_in_other_batches) == (2, 0, 3)
    assert report.other_batches == [OtherBatch(one.id, "One", 2), OtherBatch(two.id, "Two", 1)]
    assert report.rows_in_other_batches == [
        RowInOtherBatch(2, one.id, "One"), RowInOtherBatch(3, one.id, "One"),
        RowInOtherBatch(5, two.id, "Two"),
    ]  # fmt: skip
    assert report.repeated_rows == [RepeatedRow(7, 4), RepeatedRow(8, 2)]
    assert await codes_in_postgres(stores, new.id, A) == ["N"]
    assert (await check_agreement(stores, new.id, B)).codes == ["A0000003"]


async def test_a_file_without_a_new_code_creates_no_batch(stores: Stores) -> None:
    first = await load_new(stores, codes("A", 20))
    assert (first.new_batch, first.loaded) == (True, 20)
    before = [await count(stores, table) for table in ("batches", "pools", "codes", "audit_log")]
    again = await load_new(stores, codes("A", 20))
    assert (again.batch_id, again.new_batch, again.loaded, again.duplicates_in_other_batches) == (None, False, 0, 20)
    assert first.batch_id is not None
    assert again.other_batches == [OtherBatch(first.batch_id, "new", 20)]
    assert [await count(stores, table) for table in ("batches", "pools", "codes", "audit_log")] == before


async def test_concurrent_loads_into_new_batches_load_each_code_once(stores: Stores) -> None:
    rows = codes("A", 2_000) + codes("B", 2_000, B)
    other = [*reversed(rows)]
    reports = await asyncio.gather(*(load_new(stores, some) for some in (rows, other, rows, other)))
    assert sorted(report.loaded for report in reports) == [0, 0, 0, 4_000]
    assert await count(stores, "codes") == 4_000
    assert await count(stores, "batches") == 1


async def test_loads_of_different_clients_do_not_wait_for_each_other(stores: Stores) -> None:
    batch_of_a, batch_of_b = await new_batch(stores), await new_batch(stores)
    await load(stores, batch_of_a, codes("A", 1))
    async with stores.postgres.acquire() as connection, connection.transaction():
        # As a load of the client does.
        await connection.execute("SELECT FROM client_locks WHERE client_id = $1 FOR NO KEY UPDATE", A)
        assert (await load(stores, batch_of_b, codes("B", 10, B))).loaded == 10
        waiting = asyncio.create_task(load(stores, batch_of_a, codes("N", 10)))
        await until_blocked(stores)
        assert not waiting.done()
    assert (await waiting).loaded == 10


async def until_blocked(stores: Stores, sessions: int = 1) -> None:
    """Wait until that number of sessions waits for the lock of a client."""
    async with asyncio.timeout(30):
        while sessions > await stores.postgres.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%client_locks%'"
        ):
            await asyncio.sleep(0.01)


async def test_no_code_is_added_to_a_batch_that_ends_meanwhile(stores: Stores) -> None:
    """Neither loaded nor generated: the codes would never be issued, and their client could load them nowhere else."""
    one, two = await new_batch(stores), await new_batch(stores)
    await load(stores, one, codes("A", 5))
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM client_locks WHERE client_id = $1 FOR NO KEY UPDATE", A)
        loading = asyncio.create_task(load(stores, one, codes("N", 10)))
        generating = asyncio.create_task(generate_codes(stores, generation(two.id, 10)))
        await until_blocked(stores, 2)
        await end(stores, one)
        await drained(stores, two)
    with pytest.raises(BatchEndedError):
        await loading
    job = await generating
    assert (job.state, job.made, job.problem) == (JobState.FAILED, 0, "the batch has ended")
    assert await count(stores, "codes") == 5
    assert (await load_new(stores, codes("N", 10))).loaded == 10


DIGITS: Final = [(A, f"{number:04d}") for number in range(900)]
"""Of all codes of four digits: a hundred codes are hardly drawn without one of these."""


def generation(batch_id: UUID, count: int, **form: Any) -> GenerationRequest:
    return GenerationRequest(batch_id, A, parse_code_format(form), count, "test")


async def test_generated_codes_are_new_to_the_client(stores: Stores) -> None:
    old, new = await new_batch(stores, "old"), await new_batch(stores, "new")
    await load(stores, old, DIGITS)
    job = await generate_codes(stores, generation(new.id, 100, alphabet="numeric", length=4))
    assert (job.state, job.made) == (JobState.DONE, 100)
    assert {(A, code) for code in await codes_in_postgres(stores, new.id, A)}.isdisjoint(DIGITS)


async def test_the_code_space_of_a_client_counts_all_its_batches(stores: Stores) -> None:
    old, new = await new_batch(stores, "old"), await new_batch(stores, "new")
    await generate_codes(stores, generation(old.id, 6, alphabet="numeric", length=2))
    with pytest.raises(CodeSpaceError):
        await generate_codes(stores, generation(new.id, 6, alphabet="numeric", length=2))


async def test_a_campaign_has_no_code_of_another_batch(stores: Stores) -> None:
    old = await new_batch(stores, "old")
    await load(stores, old, DIGITS)
    form = parse_code_format({"alphabet": "numeric", "length": 4})
    start = datetime(2020, 1, 1, tzinfo=UTC)
    campaign = await create_campaign(stores, NewCampaign("c", 100, start, form, client_id=A), actor="test")
    made = {(A, code) for code in await codes_in_postgres(stores, campaign.id, A)}
    assert len(made) == 100
    assert made.isdisjoint(DIGITS)


async def test_unissued_codes_of_an_ended_batch_are_moved_exactly_once(stores: Stores) -> None:
    old = await new_batch(stores, "Old")
    await load(stores, old, codes("A", 10))
    await issue(stores, old.id, A, 4)
    await drained(stores, old)
    plain = await load_new(stores, codes("A", 10))
    assert (plain.loaded, plain.duplicates_in_other_batches) == (0, 10)
    dry = await load_new(stores, codes("A", 12), move=True, dry_run=True)
    assert (dry.loaded, dry.moved) == (8, [OtherBatch(old.id, "Old", 6)])
    reports = await asyncio.gather(*(load_new(stores, codes("A", 12), move=True) for _ in range(2)))
    assert sorted((report.loaded, len(report.moved)) for report in reports) == [(0, 0), (8, 1)]
    (report,) = (report for report in reports if report.loaded)
    assert report.moved == [OtherBatch(old.id, "Old", 6)]
    assert report.other_batches == [OtherBatch(old.id, "Old", 4)]
    assert report.batch_id is not None
    pool = await check_agreement(stores, report.batch_id, A)
    assert pool.codes == [code for _, code in codes("A", 12)][4:]
    assert (await reconcile(stores)).repeated == []
    detail = await stores.postgres.fetchval("SELECT detail FROM audit_log WHERE action = 'codes.load'")
    assert f'"moved": {{"{old.id}": 6}}' in detail


async def test_codes_of_a_batch_that_is_not_drained_are_not_moved(stores: Stores) -> None:
    old = await create_batch(stores, NewBatch("Old", ends_at=datetime(2020, 1, 1, tzinfo=UTC)), actor="test")
    # As a loader left them, while the batch was open.
    await stores.postgres.execute("INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, 1)", old.id, A)
    await stores.postgres.execute(
        "INSERT INTO codes (pool_id, seq, batch_id, client_id, code) SELECT id, 1, batch_id, client_id, 'X' FROM pools"
    )
    with pytest.raises(MoveError, match="passed its end but may still be reopened"):
        await load_new(stores, [(A, "X"), (A, "Y")], move=True)
    await end(stores, old)
    with pytest.raises(MoveError, match="not all its redemptions are in the ledger"):
        await load_new(stores, [(A, "X"), (A, "Y")], move=True)
    assert await count(stores, "batches") == 1
    await free_ended_batches(stores)
    assert (await load_new(stores, [(A, "X"), (A, "Y")], move=True)).loaded == 2


@pytest.mark.parametrize("table", ["redemptions", "quarantined", "dead_letters"])
async def test_a_code_that_may_have_been_issued_is_not_moved(stores: Stores, table: str) -> None:
    old = await new_batch(stores, "Old")
    await load(stores, old, codes("A", 3))
    await drained(stores, old)
    pool_id = await stores.postgres.fetchval("SELECT id FROM pools")
    # The counter in Redis says 0 issued, another record says that seq 2 was.
    row = {
        "redemptions": "(pool_id, seq, batch_id, code, redeemed_at, call_id, api_key_id, epoch)"
        " SELECT pool_id, seq, batch_id, code, now(), gen_random_uuid(), 0, 1",
        "quarantined": "(pool_id, seq, epoch) SELECT pool_id, seq, 1",
        "dead_letters": "(partition, stream_id, epoch, pool_id, seq, reason, raw)"
        " SELECT 0, '1-1', 1, pool_id, seq, 'test', '{}'",
    }[table]
    await stores.postgres.execute(f"INSERT INTO {table} {row} FROM codes WHERE pool_id = $1 AND seq = 2", pool_id)
    report = await load_new(stores, codes("A", 3), move=True)
    assert report.batch_id is not None
    moved = await codes_in_postgres(stores, report.batch_id, A)
    assert "A0000002" not in moved
    assert "A0000003" in moved


async def test_reconciliation_finds_a_code_that_was_issued_in_two_batches(stores: Stores) -> None:
    one, two = await new_batch(stores, "One"), await new_batch(stores, "Two")
    for batch, rows in ((one, codes("A", 2)), (two, codes("C", 2) + codes("D", 2, B))):
        await load(stores, batch, rows)
    assert (await reconcile(stores)).repeated == []
    # What no load can do: the rows of `Two` get texts of `One`.
    await stores.postgres.execute("ALTER TABLE codes DROP CONSTRAINT codes_code_client_id_key")
    await stores.postgres.execute("UPDATE codes SET code = replace(replace(code, 'C', 'A'), 'D', 'A') WHERE seq = 1")
    result = await reconcile(stores)
    assert [(found.client_id, found.code) for found in result.repeated] == [(A, "A0000001")]
    assert set(result.repeated[0].batch_ids) == {one.id, two.id}
    assert not result.holds
    assert [found.code for found in (await reconcile(stores, batch_id=one.id)).repeated] == ["A0000001"]
