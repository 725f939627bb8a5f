"""Rows of maintenance tasks: a row that cannot be processed is put aside, also when it kills the worker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from issuer.generating.code_format import CodeFormat
from issuer.generating.jobs import JobState, find_job, request_codes
from issuer.generating.request import GenerationRequest
from issuer.pools.pool import CodesMissingError
from issuer.recovery.doctor import examine
from issuer.settings import Settings
from issuer.storage.failed_rows import FailedRow, list_failed_rows, retry_failed_rows
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores
from issuer.storage.task_rows import RETRY_S, TaskRows
from sync_worker.maintenance.tasks import MaintenanceTask
from tests.support.api import running_app
from tests.support.command import run_command
from tests.support.failpoints import plant_deadly_batches
from tests.support.loading import A, load, new_batch
from tests.support.worker_process import WorkerProcess, eventually

TASK = "test"


@asynccontextmanager
async def worker_rows(stores: Stores) -> AsyncIterator[TaskRows]:
    rows = TaskRows(stores)
    try:
        yield rows
    finally:
        await rows.aclose()


@pytest_asyncio.fixture
async def rows(stores: Stores) -> AsyncIterator[TaskRows]:
    async with worker_rows(stores) as of_worker:
        yield of_worker


async def succeed() -> str:
    return "done"


async def break_down() -> str:
    raise OverflowError("date value out of range")


async def failed(stores: Stores) -> list[FailedRow]:
    return await list_failed_rows(stores.postgres)


async def marks(stores: Stores) -> int:
    return int(await stores.postgres.fetchval("SELECT count(*) FROM task_rows"))


async def make_due(stores: Stores) -> None:
    assert await retry_failed_rows(stores.postgres) > 0


async def test_a_row_that_fails_is_recorded_skipped_and_tried_again(stores: Stores, rows: TaskRows) -> None:
    candidates = {"1": 0, "2": 0, "3": 0}
    assert await rows.due(TASK, candidates) == ["1", "2", "3"]
    results = [await rows.work(TASK, row, break_down if row == "2" else succeed) for row in candidates]
    assert results == ["done", None, "done"]
    (row,) = await failed(stores)
    assert (row.task, row.row, row.failures, row.error) == (TASK, "2", 1, "OverflowError: date value out of range")
    assert await rows.due(TASK, candidates) == ["1", "3"]
    assert await rows.work(TASK, "2", succeed) is None, "not before its time"
    await make_due(stores)
    assert await rows.due(TASK, candidates) == ["1", "2", "3"]
    assert await rows.work(TASK, "2", succeed) == "done"
    assert await marks(stores) == 0


async def test_each_pause_is_longer_than_the_one_before(stores: Stores, rows: TaskRows) -> None:
    pauses = []
    for _ in range(len(RETRY_S) + 1):
        await rows.work(TASK, "1", break_down)
        (row,) = await failed(stores)
        pauses.append((row.retry_at - row.last_at).total_seconds())
        await make_due(stores)
    assert pauses == [*RETRY_S, RETRY_S[-1]]
    assert row.failures == len(RETRY_S) + 1
    assert row.first_at < row.last_at


async def test_a_changed_row_is_tried_at_once_and_a_row_without_work_is_forgotten(
    stores: Stores, rows: TaskRows
) -> None:
    await rows.work(TASK, "1", break_down, version=1)
    await rows.work(TASK, "2", break_down, version=1)
    assert await rows.due(TASK, {"1": 1, "2": 1}) == []
    assert await rows.due(TASK, {"1": 2, "2": 1}) == ["1"]
    assert await rows.work(TASK, "1", succeed, version=2) == "done"
    assert await rows.due(TASK, {}, complete=False) == []
    assert [row.row for row in await failed(stores)] == ["2"]
    assert await rows.due(TASK, {}) == []
    assert await failed(stores) == []


async def test_an_error_of_an_unavailable_store_is_no_failure_of_the_row(
    stores: Stores, rows: TaskRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def time_out() -> str:
        raise RedisUnavailableError("TimeoutError")

    assert await rows.work(TASK, "1", time_out) is None, "Redis answers: the row is the cause"
    assert [row.error for row in await failed(stores)] == ["RedisUnavailableError: TimeoutError"]

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("no Redis")

    monkeypatch.setattr(stores.redis.client, "pipeline", away)
    with pytest.raises(RedisUnavailableError):
        await rows.work(TASK, "2", time_out)
    monkeypatch.undo()
    assert [row.row for row in await failed(stores)] == ["1"]
    assert await marks(stores) == 1


async def test_rows_are_worked_on_together_unless_one_has_failed(stores: Stores, rows: TaskRows) -> None:
    candidates, calls = {"1": 0, "2": 0, "3": 0, "4": 0}, list[list[str]]()

    async def act(some: Sequence[str]) -> list[str]:
        calls.append(list(some))
        return ["3"]

    async def fail(some: Sequence[str]) -> list[str]:
        raise OverflowError(some)

    await rows.work(TASK, "2", break_down)
    await make_due(stores)
    assert await rows.work_together(TASK, candidates, act) == ["2", "3"]
    assert calls == [["1", "3", "4"]]
    assert await rows.work_together(TASK, candidates, fail) == list(candidates), "each shows by itself what it is"
    assert [row.row for row in await failed(stores)] == ["2"]


async def test_errors_that_the_task_handles_are_raised(stores: Stores, rows: TaskRows) -> None:
    with pytest.raises(OverflowError):
        await rows.work(TASK, "1", break_down, raises=(OverflowError,))
    assert await marks(stores) == 0


async def test_a_cancelled_row_is_not_failed(stores: Stores, rows: TaskRows) -> None:
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(rows.work(TASK, "1", wait))
    await started.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await marks(stores) == 0


async def test_a_row_of_a_living_worker_is_left_to_it_and_that_of_a_dead_one_recorded(
    stores: Stores, rows: TaskRows
) -> None:
    started, candidates = asyncio.Event(), {"1": 0, "2": 0}

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    async with worker_rows(stores) as other:
        task = asyncio.create_task(other.work(TASK, "1", wait))
        await started.wait()
        assert await rows.due(TASK, candidates) == ["2"]
        assert await rows.work(TASK, "1", succeed) is None
        assert await failed(stores) == []
        # As when the process is killed: its connection ends, and nothing removes the mark.
        await other.aclose()

        async def session_has_ended() -> bool:
            return await rows.due(TASK, candidates) == ["2"] and bool(await failed(stores))

        await eventually(session_has_ended, "the mark is a record")
        (row,) = await failed(stores)
        assert row.error.endswith("crashed while it processed this row")
        assert (row.row, row.failures) == ("1", 1)
        task.cancel()
        await asyncio.wait([task])
    await make_due(stores)
    assert await rows.due(TASK, candidates) == ["1", "2"]


async def test_a_lost_connection_does_not_leave_marks_of_a_living_worker(stores: Stores, rows: TaskRows) -> None:
    async def lose_the_session() -> str:
        await stores.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'issuer sync_worker rows' AND datname = current_database()"
        )
        return "done"

    with suppress(PostgresUnavailableError):
        await rows.work(TASK, "1", lose_the_session)
    assert await rows.due(TASK, {"1": 0}) == ["1"]
    assert await marks(stores) == 0


async def test_an_error_outside_any_row_is_recorded_and_the_task_continues(stores: Stores, rows: TaskRows) -> None:
    stopping, calls = asyncio.Event(), list[bool]()

    async def list_rows() -> None:
        calls.append(bool(await failed(stores)))
        if len(calls) == 1:
            raise OverflowError("date value out of range")
        if len(calls) == 3:
            stopping.set()

    await MaintenanceTask(TASK, 0.0, list_rows, rows).run(stopping)
    assert calls == [False, True, False], "recorded after the first call, removed after the second"
    assert await failed(stores) == []


async def unreadable_batch(stores: Stores) -> UUID:
    batch: UUID = await stores.postgres.fetchval(
        "INSERT INTO batches (partition, id, name, rules)"
        " VALUES (0, gen_random_uuid(), 'bad', '{\"nonsense\": 1}') RETURNING id"
    )
    return batch


async def test_unreadable_rows_do_not_stop_the_worker_or_the_other_rows(
    stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    good, drained = await new_batch(stores), await new_batch(stores)
    job = await request_codes(stores, GenerationRequest(good.id, A, CodeFormat(), 10, "test"))
    bad_job = await request_codes(stores, GenerationRequest(good.id, A, CodeFormat(), 10, "test"))
    await stores.postgres.execute(
        "UPDATE generation_jobs SET format = '{\"nonsense\": 1}', touched_at = '1970-01-01' WHERE id = $1", bad_job.id
    )
    bad = [await unreadable_batch(stores) for _ in range(3)]
    waiting = await stores.postgres.fetchval(
        "INSERT INTO batches (partition, id, name) VALUES (0, gen_random_uuid(), 'good') RETURNING id"
    )
    # A pool whose codes are not there, beside one that is only not loaded yet.
    await load(stores, drained, [(uuid.uuid4(), f"B{number}") for number in range(3)])
    hole = await stores.postgres.fetchval(
        "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, gen_random_uuid(), 5) RETURNING id", drained.id
    )
    with WorkerProcess(settings, tmp_path) as worker:

        async def all_done() -> bool:
            pushed = await stores.postgres.fetchval("SELECT redis_revision FROM batches WHERE id = $1", waiting)
            done = (await find_job(stores.postgres, job.id)).state is JobState.DONE
            return bool(pushed) and done and {row.row for row in await failed(stores)} == expected

        expected = {*map(str, bad), str(bad_job.id), str(hole)}
        await eventually(all_done, "the good rows are processed, the bad ones recorded")
        assert worker.process.poll() is None
        assert worker.log().count("cannot process a row") == len(expected), "logged once each"
        assert {row.task for row in await failed(stores)} == {"batch-sync", "generate", "top-up"}
        (check,) = [check for check in await examine(settings, stores.postgres) if check.name == "maintenance"]
        assert not check.ok
        assert check.found.startswith("5 failed rows")
        async with running_app(settings) as api:
            assert "issuer_failed_rows 5.0" in (await api.get("/metrics")).text
        # Repaired and asked for: the records are removed. Without being asked for, these rows would have to wait.
        await stores.postgres.execute("UPDATE task_rows SET retry_at = now() + interval '1 day'")
        await stores.postgres.execute("UPDATE batches SET rules = '{}' WHERE id = ANY($1)", bad)
        code, printed = await run_command(settings, "maintenance", "retry", "--task", "batch-sync")
        assert (code, printed.strip()) == (0, "3 rows are tried again now")

        async def repaired() -> bool:
            return {row.task for row in await failed(stores)} == {"generate", "top-up"}

        await eventually(repaired, "the repaired rows are processed")
    code, printed = await run_command(settings, "maintenance", "list")
    assert code == 0
    assert CodesMissingError.__name__ in printed
    assert "CodeFormatError" in printed


@pytest.mark.parametrize(
    "death", ["segfault", pytest.param("exit", marks=pytest.mark.long), pytest.param("kill", marks=pytest.mark.long)]
)
async def test_a_row_that_kills_the_worker_is_skipped_by_the_next_one(
    stores: Stores, settings: Settings, tmp_path: Path, death: str
) -> None:
    deadly = await stores.postgres.fetchval(
        "INSERT INTO batches (partition, id, name) VALUES (0, '00000000-0000-4000-8000-000000000001', $1) RETURNING id",
        f"deadly {death}",
    )
    waiting = await stores.postgres.fetchval(
        "INSERT INTO batches (partition, id, name)"
        " VALUES (0, 'ffffffff-ffff-4fff-8fff-ffffffffffff', 'good') RETURNING id"
    )
    worker = WorkerProcess(settings, tmp_path, environment=plant_deadly_batches(tmp_path / "site"))
    with worker:
        assert await asyncio.to_thread(worker.process.wait, 60) != 0
    # Whatever restarts the worker: it knows nothing of the one before.
    with worker:

        async def others_done() -> bool:
            return bool(await stores.postgres.fetchval("SELECT redis_revision FROM batches WHERE id = $1", waiting))

        await eventually(others_done, "the other batch is in Redis")
        (row,) = await failed(stores)
        assert (row.task, row.row) == ("batch-sync", str(deadly))
        assert row.error.endswith("crashed while it processed this row")
