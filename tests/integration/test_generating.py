"""Generation jobs: exactly the requested number of codes, each once, also with kills and concurrent runners."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import asyncpg
import pytest

from issuer.access.audit import list_entries
from issuer.batches.store import BatchChanges, BatchEndedError, BatchNotFoundError, change_batch
from issuer.generating import job_runner
from issuer.generating.code_format import MAX_CODES, CodeFormat, CodeFormatError, CodeSpaceError
from issuer.generating.code_source import FewCodesError
from issuer.generating.command_job import command_job
from issuer.generating.job_control import JobFinishedError, cancel_job, list_jobs
from issuer.generating.job_runner import finish_job, generate_codes, work_on_jobs
from issuer.generating.jobs import (
    MAX_OPEN_JOBS_OF_CLIENT,
    Job,
    JobIdReusedError,
    JobNotFoundError,
    JobState,
    TooManyJobsError,
    end_job,
    find_job,
    mark_announced,
    request_codes,
    try_job_lock,
)
from issuer.generating.request import GenerationRequest, find_only_client
from issuer.loading.progress import Phase
from issuer.pools.memory import RedisMemoryError
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.loading import A, B, check_agreement, codes_in_postgres, load, new_batch, pool_in_redis
from tests.support.parameters import some_long
from tests.support.servers import START_LIMIT_S

FORM = CodeFormat(length=8)
TIGHT = CodeFormat(length=4, alphabet="numeric", unlucky=False)
"""10,000 codes: the smallest space for 1,000."""


def make_request(
    batch_id: UUID, count: int, form: CodeFormat = FORM, client: UUID = A, actor: str = "test"
) -> GenerationRequest:
    return GenerationRequest(batch_id, client, form, count, actor)


async def test_exactly_the_requested_number_of_codes_is_generated(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 700)
    batch = await new_batch(stores)
    seen: list[tuple[Phase, int, int | None]] = []
    job = await generate_codes(stores, make_request(batch.id, 2_000), progress=lambda *step: seen.append(step))
    assert (job.state, job.made, job.problem) == (JobState.DONE, 2_000, None)
    pool = await check_agreement(stores, batch.id, A)
    assert (pool.loaded, pool.total) == (2_000, 2_000)
    assert [done for phase, done, _ in seen if phase is Phase.GENERATING] == [0, 700, 1_400, 2_000]
    assert (Phase.LOADING, 2_000, 2_000) in seen
    entries = [entry for entry in (await list_entries(stores.postgres)).items if entry.action == "codes.generate"]
    assert [(entry.actor, entry.subject, entry.detail["count"]) for entry in entries] == [
        ("test", f"batch:{batch.id}", 2_000)
    ]


async def test_collisions_in_a_small_code_space_are_redrawn(stores: Stores) -> None:
    """A tenth of the space is used at the end: some of the drawn codes are in the batch already."""
    batch = await new_batch(stores)
    await load(stores, batch, [(B, f"{number:04d}") for number in range(0, 1_000, 2)])
    job = await generate_codes(stores, make_request(batch.id, 500, TIGHT))
    assert job.made == 500
    made = await codes_in_postgres(stores, batch.id, A)
    assert len(made) == 500
    assert all(len(code) == 4 and (int(code) >= 1_000 or int(code) % 2) for code in made)


NEARLY_FULL = [f"{number:04d}" for number in range(10_000) if number != 4711]


@pytest.mark.parametrize(
    "form",
    some_long([
        TIGHT, CodeFormat(pattern="####", alphabet="numeric"), CodeFormat(length=4, alphabet="9876543210"),
        CodeFormat(length=3, prefix="4", alphabet="numeric"), CodeFormat(pattern="4###", alphabet="0213546879"),
        CodeFormat(length=4, alphabet="numeric", check=True), CodeFormat(length=3, alphabet="numeric", suffix="0"),
        CodeFormat(length=4, alphabet="012345678"),
    ], short=2),
)  # fmt: skip
async def test_generation_into_a_nearly_full_space_adds_nothing_however_it_is_spelled(
    stores: Stores, form: CodeFormat
) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, [(B, code) for code in NEARLY_FULL])
    with pytest.raises(CodeSpaceError):
        await generate_codes(stores, make_request(batch.id, 10, form))
    for table in ("generation_jobs", "pools", "codes"):
        count = {"generation_jobs": 0, "pools": 1, "codes": len(NEARLY_FULL)}[table]
        assert await stores.postgres.fetchval(f"SELECT count(*) FROM {table}") == count


@pytest.mark.parametrize(
    "form",
    some_long([
        CodeFormat(length=4, alphabet="alphabetic"), CodeFormat(length=4, prefix="A", alphabet="numeric"),
        CodeFormat(length=4, prefix="_", alphabet="numeric"), CodeFormat(length=4, prefix="%", alphabet="numeric"),
        CodeFormat(length=4, prefix="\\", alphabet="numeric"), CodeFormat(pattern="##-##", alphabet="numeric"),
    ], short=2),
)  # fmt: skip
async def test_codes_that_the_format_cannot_spell_take_none_of_its_space(stores: Stores, form: CodeFormat) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, [(B, code) for code in NEARLY_FULL])
    assert (await generate_codes(stores, make_request(batch.id, 100, form))).made == 100


async def test_earlier_jobs_count_however_their_format_is_spelled(stores: Stores) -> None:
    batch = await new_batch(stores)
    for form in (TIGHT, CodeFormat(pattern="####", alphabet="9876543210")):
        await generate_codes(stores, make_request(batch.id, 300, form))
    job = await request_codes(stores, make_request(batch.id, 300, TIGHT))
    with pytest.raises(CodeSpaceError):
        await generate_codes(stores, make_request(batch.id, 101, CodeFormat(length=4, alphabet="0246813579")))
    await finish_job(stores, job.id)
    await generate_codes(stores, make_request(batch.id, 100, CodeFormat(length=4, alphabet="0246813579")))


async def test_codes_of_earlier_jobs_count_against_the_code_space(stores: Stores) -> None:
    batch = await new_batch(stores)
    await generate_codes(stores, make_request(batch.id, 600, TIGHT))
    with pytest.raises(CodeSpaceError) as caught:
        await generate_codes(stores, make_request(batch.id, 401, TIGHT, client=B))
    assert caught.value.length == 5
    await generate_codes(stores, make_request(batch.id, 400, TIGHT, client=B))
    await generate_codes(stores, make_request(batch.id, 401, CodeFormat(length=4, alphabet="alphabetic")))


async def test_backslashes_and_other_alphabets_are_stored_as_drawn(stores: Stores) -> None:
    batch = await new_batch(stores)
    form = CodeFormat(length=6, alphabet="\\n가나%\"'", prefix="\\t", unlucky=False)
    await generate_codes(stores, make_request(batch.id, 300, form))
    pool = await check_agreement(stores, batch.id, A)
    assert all(code.startswith("\\t") and set(code[2:]) <= set(form.characters) for code in pool.codes)
    assert set("".join(code[2:] for code in pool.codes)) == set(form.characters)


@pytest.mark.long
async def test_a_job_fails_if_all_codes_of_its_format_exist(stores: Stores) -> None:
    batch = await new_batch(stores)
    job = await request_codes(stores, make_request(batch.id, 500, TIGHT))
    # Another load takes the space of an accepted job.
    await load(stores, batch, [(B, code) for code in NEARLY_FULL])
    job = await finish_job(stores, job.id)
    assert job.state is JobState.FAILED
    assert job.problem == "nearly all codes of this form exist already"
    assert job.made <= 1
    assert len(await codes_in_postgres(stores, batch.id, A)) == job.made


async def test_words_that_exclude_all_codes_are_refused(stores: Stores) -> None:
    batch = await new_batch(stores)
    words = tuple(f"{number:02d}" for number in range(100))
    with pytest.raises(FewCodesError):
        await generate_codes(stores, make_request(batch.id, 10, CodeFormat(alphabet="numeric", unlucky_words=words)))
    assert await stores.postgres.fetchval("SELECT count(*) FROM generation_jobs") == 0


async def test_refusals_change_nothing(stores: Stores) -> None:
    batch, ended = await new_batch(stores), await new_batch(stores)
    await change_batch(stores, ended.id, BatchChanges(expired=True), actor="test")
    with pytest.raises(CodeSpaceError):
        await generate_codes(stores, make_request(batch.id, 1_001, TIGHT))
    with pytest.raises(BatchNotFoundError):
        await generate_codes(stores, make_request(uuid4(), 1))
    with pytest.raises(BatchEndedError):
        await generate_codes(stores, make_request(ended.id, 1))
    for count in (0, -1, MAX_CODES + 1):
        with pytest.raises(CodeFormatError, match="count must be 1 to 10,000,000"):
            make_request(batch.id, count)
    for table in ("generation_jobs", "pools", "codes"):
        assert await stores.postgres.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_codes_that_do_not_fit_into_redis_are_refused(stores: Stores) -> None:
    batch = await new_batch(stores)
    used = (await stores.redis.client.info("memory"))["used_memory"]
    await stores.redis.client.config_set("maxmemory", used + 2_000_000)
    try:
        with pytest.raises(RedisMemoryError):
            await generate_codes(stores, make_request(batch.id, 1_000_000))
    finally:
        await stores.redis.client.config_set("maxmemory", 0)
    assert await stores.postgres.fetchval("SELECT count(*) FROM generation_jobs") == 0


async def test_a_repeated_job_id_adds_nothing(stores: Stores) -> None:
    batch, job_id = await new_batch(stores), uuid4()
    for _ in range(3):
        job = await generate_codes(stores, make_request(batch.id, 100), job_id=job_id)
        assert (job.id, job.made) == (job_id, 100)
    for other in (
        make_request(batch.id, 101),
        make_request(batch.id, 100, TIGHT),
        make_request(batch.id, 100, client=B),
    ):
        with pytest.raises(JobIdReusedError):
            await generate_codes(stores, other, job_id=job_id)
    assert len(await codes_in_postgres(stores, batch.id, A)) == 100


async def test_two_runners_of_one_job_generate_its_codes_once(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 200)
    batch, job_id = await new_batch(stores), uuid4()
    async with open_stores(settings) as others:
        jobs = await asyncio.gather(
            *(generate_codes(which, make_request(batch.id, 2_000), job_id=job_id) for which in (stores, others) * 2)
        )
    assert [(job.state, job.made) for job in jobs] == [(JobState.DONE, 2_000)] * 4
    assert (await check_agreement(stores, batch.id, A)).loaded == 2_000


async def test_concurrent_jobs_generate_all_their_codes(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one batch with a small space, with the stores of two processes and a worker."""
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 50)
    batch = await new_batch(stores)
    done = asyncio.Event()

    async def help_out() -> None:
        while not done.is_set():
            await work_on_jobs(stores)
            await asyncio.sleep(0.01)

    async with open_stores(settings) as others, asyncio.TaskGroup() as group:
        helper = group.create_task(help_out(), name="worker")
        await asyncio.gather(
            *(
                generate_codes(which, make_request(batch.id, 250, TIGHT, client=c))
                for which in (stores, others)
                for c in (A, B)
            )
        )
        done.set()
        await helper
    for client in (A, B):
        assert (await check_agreement(stores, batch.id, client)).total == 500
    assert await stores.postgres.fetchval("SELECT count(DISTINCT code) FROM codes") == 1_000


async def test_the_worker_finishes_abandoned_jobs(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 100)
    batch = await new_batch(stores)
    left = [await request_codes(stores, make_request(batch.id, 250, client=client)) for client in (A, B)]
    assert not await pool_in_redis(stores, batch.id, A)
    # The worker takes the jobs in turn, one chunk each.
    assert await work_on_jobs(stores)
    assert await work_on_jobs(stores)
    assert [(await find_job(stores.postgres, job.id)).made for job in left] == [100, 100]
    while await work_on_jobs(stores):
        pass
    for job in left:
        assert (await find_job(stores.postgres, job.id)).state is JobState.DONE
        assert (await check_agreement(stores, batch.id, job.request.client_id)).loaded == 250


async def test_a_locked_job_is_not_run_by_other_processes(settings: Settings, stores: Stores) -> None:
    batch = await new_batch(stores)
    job = await request_codes(stores, make_request(batch.id, 50))
    async with stores.postgres.acquire() as connection, try_job_lock(connection, job.id) as acquired:
        assert acquired
        async with open_stores(settings) as others:
            assert not await work_on_jobs(others)
            found_locked, looks = asyncio.Event(), itertools.count(1)

            def look(_: Phase, made: int, __: int | None) -> None:
                assert made == 0
                if next(looks) == 3:
                    found_locked.set()

            waiting = asyncio.create_task(finish_job(others, job.id, progress=look), name="waits for the lock")
            await asyncio.wait_for(found_locked.wait(), START_LIMIT_S)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
    assert (await find_job(stores.postgres, job.id)).made == 0
    assert await work_on_jobs(stores)


@pytest.mark.parametrize("committed", [False, True])
async def test_a_process_that_loses_its_connection_loses_at_most_its_current_chunk(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The server closes the connection before or after the commit of a chunk."""
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 100)
    batch = await new_batch(stores)
    job = await request_codes(stores, make_request(batch.id, 300))
    insert = job_runner._insert
    calls = 0

    async def cut(connection: asyncpg.Connection[asyncpg.Record], job: Job) -> Job:
        nonlocal calls
        calls += 1
        if calls == 2 and not committed:
            connection.terminate()
        done = await insert(connection, job)
        if calls == 2:
            connection.terminate()
        return done

    monkeypatch.setattr(job_runner, "_insert", cut)
    with pytest.raises(Exception, match=r"closed|ConnectionDoesNotExist|Interface"):
        await finish_job(stores, job.id)
    monkeypatch.setattr(job_runner, "_insert", insert)
    assert (await find_job(stores.postgres, job.id)).made == (200 if committed else 100)
    assert (await finish_job(stores, job.id)).made == 300
    assert (await check_agreement(stores, batch.id, A)).loaded == 300


async def test_the_end_of_a_batch_fails_its_jobs(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 100)
    batch = await new_batch(stores)
    jobs = [
        await request_codes(stores, make_request(batch.id, 300)),
        await request_codes(stores, make_request(batch.id, 300, client=B)),
    ]
    assert await work_on_jobs(stores)
    await change_batch(stores, batch.id, BatchChanges(expired=True), actor="test")
    while await work_on_jobs(stores):
        pass
    ended = [await finish_job(stores, job.id) for job in jobs]
    assert [(job.state, job.problem, job.made) for job in ended] == [
        (JobState.FAILED, "the batch has ended", 100),
        (JobState.FAILED, "the batch has ended", 0),
    ]


async def test_a_cancelled_job_adds_no_more_codes(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_runner, "BATCH_SIZE", 700)
    batch = await new_batch(stores)
    job = await request_codes(stores, make_request(batch.id, 2_000))
    assert await work_on_jobs(stores)
    assert [one.id for one in (await list_jobs(stores.postgres, finished=False)).items] == [job.id]
    cancelled = await cancel_job(stores.postgres, job.id, actor="test")
    assert (cancelled.state, cancelled.made, cancelled.problem) == (JobState.FAILED, 700, "it was cancelled")
    # The worker that was about to start, and a command that waits for the job.
    assert not await work_on_jobs(stores)
    assert await finish_job(stores, job.id) == cancelled
    # A runner that has read the job before.
    async with stores.postgres.acquire() as connection:
        chunk = await job_runner._generate_chunk(connection, job, await job_runner._source_of(job))
        assert chunk == cancelled
        ended = await end_job(connection, job.id, JobState.DONE)
    assert ended == cancelled
    assert len(await codes_in_postgres(stores, batch.id, A)) == 700
    with pytest.raises(JobFinishedError, match="failed already, with 700 codes"):
        await cancel_job(stores.postgres, job.id, actor="test")
    assert (await list_jobs(stores.postgres, finished=False)).items == []
    assert (await list_jobs(stores.postgres, finished=True)).items == [cancelled]
    actions = [entry.action for entry in (await list_entries(stores.postgres)).items]
    assert actions.count("codes.generate.cancel") == 1


async def test_a_repeated_request_continues_the_job_of_a_killed_command(stores: Stores) -> None:
    batch = await new_batch(stores)
    request = make_request(batch.id, 300, actor="cli:me")
    async with command_job(stores, request) as (first, abandoned):
        assert not abandoned
    # The command ended without showing the result; the worker finishes the job before the command is repeated.
    while await work_on_jobs(stores):
        pass
    for other in (
        make_request(batch.id, 301, actor="cli:me"),
        make_request(batch.id, 300),
        make_request(batch.id, 300, TIGHT, actor="cli:me"),
        make_request(batch.id, 300, client=B, actor="cli:me"),
    ):
        async with command_job(stores, other) as (job, abandoned):
            assert not abandoned
    async with command_job(stores, request) as (job, abandoned):
        assert (job.id, job.state, abandoned) == (first.id, JobState.DONE, True)
        await mark_announced(stores.postgres, job.id)
    async with command_job(stores, request) as (job, abandoned):
        assert job.id != first.id
        assert not abandoned


async def test_a_job_with_a_waiting_command_is_not_adopted(stores: Stores) -> None:
    """Of three commands with the same request, two continue abandoned jobs and the third starts its own."""
    batch = await new_batch(stores)
    request = make_request(batch.id, 300)
    left = {(await request_codes(stores, request)).id for _ in range(2)}
    async with AsyncExitStack() as alive:
        found = [await alive.enter_async_context(command_job(stores, request)) for _ in range(3)]
    assert {job.id for job, abandoned in found if abandoned} == left
    assert [abandoned for _, abandoned in found] == [True, True, False]


async def test_a_given_job_id_is_used_although_another_command_waits(stores: Stores) -> None:
    batch, job_id = await new_batch(stores), uuid4()
    request = make_request(batch.id, 300)
    async with command_job(stores, request, job_id=job_id) as one, command_job(stores, request, job_id=job_id) as two:
        assert one == two
        assert one[0].id == job_id
    async with command_job(stores, request, job_id=uuid4()) as (job, abandoned):
        assert job.id != job_id
        assert not abandoned


@pytest.mark.long
async def test_unfinished_jobs_are_bounded(stores: Stores) -> None:
    batch = await new_batch(stores)

    async def ask(client: UUID) -> bool:
        try:
            await request_codes(stores, make_request(batch.id, 10, client=client), bounded=True)
        except TooManyJobsError:
            return False
        return True

    assert sum(await asyncio.gather(*(ask(A) for _ in range(8)))) == MAX_OPEN_JOBS_OF_CLIENT
    assert await ask(B)
    await request_codes(stores, make_request(batch.id, 10))
    others = [await ask(uuid4()) for _ in range(32)]
    assert sum(others) == 32 - MAX_OPEN_JOBS_OF_CLIENT - 2
    while await work_on_jobs(stores):
        pass
    assert await ask(A)


async def test_a_job_is_found_only_by_its_batch_and_client(stores: Stores) -> None:
    batch = await new_batch(stores)
    assert await find_only_client(stores.postgres, batch.id) is None
    job = await request_codes(stores, make_request(batch.id, 10))
    assert await find_only_client(stores.postgres, batch.id) == A
    assert await find_job(stores.postgres, job.id, batch_id=batch.id, client_id=A) == job
    for batch_id, client_id in ((uuid4(), None), (None, B), (batch.id, B)):
        with pytest.raises(JobNotFoundError):
            await find_job(stores.postgres, job.id, batch_id=batch_id, client_id=client_id)
    await request_codes(stores, make_request(batch.id, 10, client=B))
    with pytest.raises(CodeFormatError, match="client_id is needed"):
        await find_only_client(stores.postgres, batch.id)
