"""`issuer generate` as a process: output, refusals, kill -9 at every stage, two at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import pytest

from issuer.generating.code_format import CodeFormat
from issuer.generating.jobs import Job, request_codes
from issuer.generating.request import GenerationRequest
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import Command, CommandInProcess, ended, kill_when
from tests.support.loading import A, B, check_agreement, codes, load, new_batch
from tests.support.worker_process import WorkerProcess, eventually

MANY: Final = 120_000
"""More than two chunks."""


@pytest.fixture
def generate(settings: Settings, tmp_path: Path) -> Command:
    return Command(settings, tmp_path, "generate")


@pytest.fixture
def generate_here(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandInProcess:
    return CommandInProcess(settings, tmp_path, monkeypatch, "generate")


def test_a_job_is_listed_and_cancelled(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = CommandInProcess(settings, tmp_path, monkeypatch)
    none = issuer("jobs", "list")
    assert (none.out, none.err) == ("", "no jobs are unfinished; --all lists the others\n")
    batch = issuer("batches", "create", "--name", "Sale", "--json").json["id"]
    job = asyncio.run(_requested(settings, UUID(batch)))
    assert issuer("jobs", "list").out.splitlines()[1].split()[:4] == [str(job.id), "waiting", "0", "2,000"]
    assert issuer("jobs", "list", "--json").json == [issuer("jobs", "show", str(job.id), "--json").json]
    cancelled = issuer("jobs", "cancel", str(job.id), "--json").json
    assert (cancelled["state"], cancelled["problem"]) == ("failed", "it was cancelled")
    again = issuer("jobs", "cancel", str(job.id))
    assert (again.status, again.err) == (2, "error: the job is failed already, with 0 codes\n")
    assert [one["id"] for one in issuer("jobs", "list", "--all", "--json").json] == [str(job.id)]
    assert issuer("jobs", "show", str(uuid4())).status == 2


async def _requested(settings: Settings, batch_id: UUID) -> Job:
    async with open_stores(settings) as stores:
        return await request_codes(stores, GenerationRequest(batch_id, A, CodeFormat(length=8), 2_000, "test"))


@pytest.mark.long
async def test_the_command_creates_batch_client_and_codes(generate: Command, stores: Stores) -> None:
    words = ("--count", "3000", "--length", "12", "--batch-name", "Summer Sale")
    report = (await generate(*words, "--rules", '{"maxpercustomer":2}', "--json")).json
    assert (report["state"], report["count"], report["made"], report["total"]) == ("done", 3_000, 3_000, 3_000)
    assert (report["in_redis"], report["new_batch"], report["warning"]) == (3_000, True, None)
    assert report["space"] == str(30**12)
    batch_id, client_id = UUID(report["batch_id"]), UUID(report["client_id"])
    pool = await check_agreement(stores, batch_id, client_id)
    assert all(re.fullmatch(r"[2-9A-HJKMNP-TV-Z]{12}", code) for code in pool.codes)
    # The result was shown: the same command generates as many codes again, for the same client.
    again = await generate(*words)
    assert again.status == 0
    assert re.search(r"generated +3,000\n", again.out)
    assert re.search(r"total +6,000\n", again.out)
    assert (await check_agreement(stores, batch_id, client_id)).total == 6_000


@pytest.mark.long
async def test_options_determine_the_format(generate: Command, stores: Stores) -> None:
    batch = await new_batch(stores)
    (generate.directory / "words.txt").write_text("# ours\n가나\n")
    korean = "가나다라마바사아자차카타파하0123456789"
    words = ("--batch-id", str(batch.id), "--client", str(A), "--json")
    await generate("--count", "200", "--length", "10", "--alphabet", korean, "--unlucky-words", "words.txt", *words)
    form = ("--pattern", "SUMMER-####-####", "--check", "--no-unlucky", "--alphabet", "numeric")
    report = (await generate("--count", "200", *form, *words)).json
    assert report["format"] == {
        "pattern": "SUMMER-####-####", "alphabet": "numeric", "check": True, "unlucky": False, "unlucky_words": [],
    }  # fmt: skip
    assert "one in 50,000 codes of this format exists" in report["warning"]
    await generate("--count", "10", "--prefix", "A-", "--suffix", "-Z", "--length", "6", *words)
    made = (await check_agreement(stores, batch.id, A)).codes
    assert all(re.fullmatch(f"[{korean}]{{10}}", code) and "가나" not in code for code in made[:200])
    assert all(re.fullmatch(r"SUMMER-\d{4}-\d{4}", code) for code in made[200:400])
    assert all(re.fullmatch(r"A-[2-9A-Z]{6}-Z", code) for code in made[400:])
    assert len(made) == 410


async def test_a_dry_run_changes_nothing(generate: Command, stores: Stores) -> None:
    report = (await generate("--count", "500", "--batch-name", "Not yet", "--dry-run", "--json")).json
    assert (report["dry_run"], report["batch_id"], len(report["examples"])) == (True, None, 3)
    assert report["redis_bytes"] > 500 * 12
    shown = await generate("--count", "500", "--batch-name", "Not yet", "--length", "6", "--dry-run")
    assert "would add" in shown.out
    assert "warning" not in shown.out
    assert "729,000,000 codes of this format" in shown.out
    batch = await new_batch(stores)
    report = (await generate("--count", "500", "--batch-id", str(batch.id), "--dry-run", "--json")).json
    assert report["batch_id"] == str(batch.id)
    for table, count in (("batches", 1), ("pools", 0), ("generation_jobs", 0), ("codes", 0)):
        assert await stores.postgres.fetchval(f"SELECT count(*) FROM {table}") == count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch-name", "X"), "give --count, or --job to continue a job"),
        (("--count", "5"), "give --batch-name or --batch-id"),
        (("--count", "5", "--batch-name", "X", "--length", "0"), "--length must be 1 to 255"),
        (("--count", "5", "--batch-name", "X", "--alphabet", "aa"), "--alphabet contains 'a' more than once"),
        (("--count", "5", "--batch-name", "X", "--pattern", "A#", "--length", "5"), "--length cannot be given beside"),
        (("--count", "5", "--batch-name", "X", "--unlucky-words", "none.txt"), "cannot read none.txt"),
        (("--count", "5", "--batch-name", "X", "--client", "x"), "unknown client 'x': issuer clients create x"),
        (("--count", "5", "--batch-name", str(UUID(int=5))), "name must not have the form of a UUID"),
        (("--job", str(UUID(int=5))), f"no job has the id {UUID(int=5)}"),
        (
            ("--count", "1001", "--batch-name", "X", "--length", "4", "--alphabet", "numeric"),
            "there are 10,000 codes of this form, fewer than 10 × 1,001: a length of 5 would do",
        ),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    generate_here: CommandInProcess, words: tuple[str, ...], message: str
) -> None:
    done = generate_here(*words)
    assert done.status == 2
    assert done.err.startswith(f"error: {message}")
    assert generate_here.rows("batches") == 0


async def test_a_batch_with_several_clients_requires_the_client_option(generate: Command, stores: Stores) -> None:
    batch = await new_batch(stores)
    await load(stores, batch, codes("A", 3) + codes("B", 3, B))
    done = await generate("--count", "5", "--batch-id", str(batch.id))
    assert (done.status, done.err) == (2, "error: --client is needed: the batch has several clients\n")


@pytest.mark.long
async def test_a_command_with_a_job_id_can_be_repeated(generate: Command, stores: Stores) -> None:
    job = str(uuid4())
    for _ in range(2):
        report = (await generate("--count", "40", "--batch-name", "Mine", "--job", job, "--json")).json
        assert (report["id"], report["made"], report["total"]) == (job, 40, 40)
    assert (await generate("--job", job, "--json")).json["total"] == 40
    refused = await generate("--count", "41", "--batch-name", "Mine", "--job", job)
    assert (refused.status, refused.err) == (2, "error: the job of this id is another one\n")


def reached(stores: Stores, query: str) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return bool(await stores.postgres.fetchval(query))

    return condition


BEGUN = "SELECT count(*) > 0 FROM generation_jobs"
WITHIN = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE query LIKE '%INSERT INTO codes%' AND state = 'active' AND pid <> pg_backend_pid()
"""
ONE_CHUNK = "SELECT count(*) > 0 FROM generation_jobs WHERE made > 0"
ALL_MADE = "SELECT count(*) > 0 FROM generation_jobs WHERE made = count"


@pytest.mark.long
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(BEGUN, id="begun", marks=pytest.mark.long),
        pytest.param(WITHIN, id="within"),
        pytest.param(ONE_CHUNK, id="chunk", marks=pytest.mark.long),
        pytest.param(ALL_MADE, id="made", marks=pytest.mark.long),
    ],
)
async def test_a_killed_command_is_completed_by_a_second_run(generate: Command, stores: Stores, moment: str) -> None:
    words = ("--count", str(MANY), "--batch-name", "Summer Sale", "--json")
    with generate.start(*words) as process:
        await kill_when(process, reached(stores, moment))
    done = await generate(*words)
    report = done.json
    assert "continuing job" in done.err
    assert (report["made"], report["total"], report["in_redis"]) == (MANY, MANY, MANY)
    await check_agreement(stores, UUID(report["batch_id"]), UUID(report["client_id"]))
    assert await stores.postgres.fetchval("SELECT count(*) FROM generation_jobs") == 1
    assert (await generate("--job", report["id"], "--json")).json["total"] == MANY


@pytest.mark.long
async def test_the_worker_completes_the_job_of_a_killed_command(
    generate: Command, stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    words = ("--count", str(MANY), "--batch-name", "Summer Sale", "--json")
    with WorkerProcess(settings, tmp_path):
        with generate.start(*words) as process:
            await kill_when(process, reached(stores, ONE_CHUNK))
        await eventually(reached(stores, "SELECT state = 'done' FROM generation_jobs"), "the worker finishes the job")
        report = (await generate(*words)).json
    assert (report["made"], report["total"]) == (MANY, MANY)
    assert (await check_agreement(stores, UUID(report["batch_id"]), UUID(report["client_id"]))).loaded == MANY


@pytest.mark.long
async def test_two_concurrent_commands_generate_both_counts(generate: Command, stores: Stores) -> None:
    batch = await new_batch(stores)
    words = ("--count", "60000", "--batch-id", str(batch.id), "--client", str(A), "--json")
    with generate.start(*words) as one, generate.start(*words) as two:
        reports = [done.json for done in await asyncio.gather(ended(one), ended(two))]
    assert [report["made"] for report in reports] == [60_000, 60_000]
    assert len({report["id"] for report in reports}) == 2
    assert (await check_agreement(stores, batch.id, A)).total == 120_000
