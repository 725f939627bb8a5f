"""`issuer preload` as a process: what it prints, what it refuses, and kill -9 at every stage of a load."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psutil
import pytest

from issuer.settings import Settings
from issuer.stores import Stores
from tests.acceptance.installation import clean_environment, issuer_command
from tests.loading import A, B, check_agreement, codes, csv_of, issue, load, new_batch, pool_in_redis

LIMIT_S: Final = 120.0
RULES: Final = '{"maxpercustomer":2,"timelimit":30}'


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


class Preload:
    """`issuer preload` against a test's databases, in a directory of its own."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.directory = directory
        self.environment = clean_environment(
            ISSUER_REDIS_URL=settings.redis_url.get_secret_value(),
            ISSUER_DATABASE_URL=settings.database_url.get_secret_value(),
            ISSUER_PARTITIONS=str(settings.partitions),
        )

    def start(
        self, *words: str, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            issuer_command("preload", *words),
            env=self.environment, cwd=self.directory, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip

    async def __call__(self, *words: str, stdin: bytes | None = None) -> Done:
        with self.start(*words, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE) as process:
            out, err = await asyncio.to_thread(process.communicate, stdin, LIMIT_S)
        return Done(process.returncode, out.decode(), err.decode())

    def write(self, data: bytes, name: str = "codes.csv") -> str:
        (self.directory / name).write_bytes(data)
        return name


@pytest.fixture
def preload(settings: Settings, tmp_path: Path) -> Preload:
    return Preload(settings, tmp_path)


async def test_a_load_is_reported(preload: Preload, stores: Stores) -> None:
    file = preload.write(csv_of(codes("A", 30) + codes("B", 20, B) + codes("A", 3)) + b"nobody,X\n")
    done = await preload(file, "--batch-name", "Summer Sale", "--rules", RULES, "--json")
    report = done.json
    assert (report["rows"], report["loaded"], report["rejected"]) == (54, 50, 1)
    assert (report["duplicates_in_file"], report["duplicates_in_batch"]) == (3, 0)
    assert report["rejections"] == [{"line": 55, "reason": "bad client id"}]
    assert report["new_batch"]
    batch_id = UUID(report["batch_id"])
    for client, count in ((A, 30), (B, 20)):
        assert (await check_agreement(stores, batch_id, client)).loaded == count

    again = (await preload(file, "--batch-name", "Summer Sale", "--rules", RULES, "--json")).json
    assert (again["batch_id"], again["loaded"], again["duplicates_in_batch"]) == (report["batch_id"], 0, 50)
    assert not again["new_batch"]

    told = await preload(file, "--batch-id", str(batch_id))
    assert told.status == 0
    assert "line 55: bad client id" in told.out
    assert "duplicates in the batch" in told.out
    assert told.err == ""


async def test_the_ways_to_give_a_file(preload: Preload, stores: Stores) -> None:
    batch = await new_batch(stores)
    bare = b"code\nX1\nX2\n"
    piped = (await preload("-", "--batch-id", str(batch.id), "--client", str(A), "--json", stdin=bare)).json
    assert piped["loaded"] == 2
    file = preload.write(b"\xef\xbb\xbfCode ; x\r\n")
    refused = await preload(file, "--batch-id", str(batch.id))
    assert refused.status == 2
    assert refused.err == "error: CSV must contain 'code' and 'client_id' columns\n"
    assert (await check_agreement(stores, batch.id, A)).codes == ["X1", "X2"]


async def test_a_dry_run_makes_no_batch(preload: Preload, stores: Stores) -> None:
    file = preload.write(csv_of(codes("A", 30)))
    report = (await preload(file, "--batch-name", "Not yet", "--dry-run", "--json")).json
    assert (report["loaded"], report["batch_id"], report["dry_run"]) == (30, None, True)
    assert report["redis_bytes"] > 0
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 0
    assert "would be loaded" in (await preload(file, "--batch-name", "Not yet", "--dry-run")).out


async def test_times_of_a_new_batch(preload: Preload, stores: Stores) -> None:
    file = preload.write(csv_of(codes("A", 1)))
    times = ("--starts-at", "2031-06-01T00:00:00+02:00", "--ends-at", "2031-07-01T00:00:00Z")
    report = (await preload(file, "--batch-name", "Summer Sale", *times, "--json")).json
    row = await stores.postgres.fetchrow(
        "SELECT starts_at, ends_at FROM batches WHERE id = $1", UUID(report["batch_id"])
    )
    assert row is not None
    assert [value.isoformat() for value in row] == ["2031-05-31T22:00:00+00:00", "2031-07-01T00:00:00+00:00"]
    assert (await preload(file, "--batch-name", "Summer Sale", *times)).status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --batch-name or --batch-id"),
        (("--batch-name", "x", "--batch-id", str(A)), "give either --batch-name or --batch-id"),
        (("--batch-id", "x"), "--batch-id: not a UUID"),
        (("--batch-id", str(A)), f"there is no batch {A}"),
        (("--batch-name", "x", "--client", "x"), "--client: not a UUID"),
        (("--batch-name", "x", "--rules", "{"), "rules: not valid JSON"),
        (("--batch-name", "x", "--rules", '{"max":1}'), "rules: unknown key 'max'"),
        (("--batch-name", "x", "--starts-at", "2031-06-01T00:00:00"), "--starts-at: a time needs an offset"),
        (("--batch-name", "x", "--ends-at", "soon"), "--ends-at: not a time"),
        (("--batch-name", " "), "name"),
    ],
)
async def test_refused(preload: Preload, stores: Stores, words: tuple[str, ...], message: str) -> None:
    done = await preload(preload.write(csv_of(codes("A", 1))), *words)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.out == ""
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 0


async def test_what_contradicts_a_batch_is_refused(preload: Preload, stores: Stores) -> None:
    file = preload.write(csv_of(codes("A", 1)))
    assert (await preload("nowhere.csv", "--batch-name", "x")).err == (
        "error: cannot read nowhere.csv: No such file or directory\n"
    )
    batch = await new_batch(stores)
    rules = await preload(file, "--batch-name", batch.name, "--rules", RULES)
    assert rules.status == 2
    assert f"issuer batches set-rules {batch.id}" in rules.err
    starts = await preload(file, "--batch-name", batch.name, "--starts-at", "2031-06-01T00:00:00Z")
    assert (starts.status, "another --starts-at" in starts.err) == (2, True)
    twin = await new_batch(stores)
    several = await preload(file, "--batch-name", batch.name)
    assert several.status == 2
    assert str(batch.id) in several.err
    assert str(twin.id) in several.err
    assert (await preload(file, "--batch-id", str(twin.id))).status == 0
    await stores.postgres.execute("UPDATE batches SET ended_at = now() WHERE id = $1", twin.id)
    ended = await preload(file, "--batch-id", str(twin.id))
    assert (ended.status, "has ended" in ended.err) == (2, True)


async def test_on_a_terminal_it_shows_how_far_it_is(preload: Preload, stores: Stores) -> None:
    batch = await new_batch(stores)
    file = preload.write(csv_of(codes("A", 100_000)))
    screen, terminal = pty.openpty()
    try:
        with preload.start(file, "--batch-id", str(batch.id), stderr=terminal) as process:
            os.close(terminal)
            shown = await asyncio.to_thread(_read_all, screen)
    finally:
        os.close(screen)
    assert process.returncode == 0
    assert "reading" in shown
    assert "loading" in shown
    assert "codes/s" in shown


def _read_all(screen: int) -> str:
    shown = b""
    while True:
        try:
            piece = os.read(screen, 4096)
        except OSError:  # the other end is closed
            return shown.decode(errors="replace")
        if not piece:
            return shown.decode(errors="replace")
        shown += piece


# --- kill -9 -------------------------------------------------------------------------------------------------------

HALF: Final = 100_000
BATCH: Final = "Killed"


async def _batch_id(stores: Stores) -> UUID | None:
    found = await stores.postgres.fetchval("SELECT id FROM batches WHERE name = $1", BATCH)
    assert found is None or isinstance(found, UUID)
    return found


async def _has_batch(stores: Stores) -> bool:
    return await _batch_id(stores) is not None


async def _is_running(stores: Stores, statement: str) -> bool:
    count = await stores.postgres.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND datname = current_database()"
        " AND pid <> pg_backend_pid() AND ltrim(query, E' \\n') LIKE $1",
        statement + "%",
    )
    return bool(count)


async def _is_copying(stores: Stores) -> bool:
    return await _is_running(stores, "COPY ")


async def _is_looking_for_duplicates(stores: Stores) -> bool:
    return await _is_running(stores, "INSERT INTO refused")


async def _is_inserting(stores: Stores) -> bool:
    return await _is_running(stores, "INSERT INTO codes")


async def _is_committed(stores: Stores) -> bool:
    return bool(await stores.postgres.fetchval("SELECT EXISTS (SELECT FROM pools WHERE total > 0)"))


async def _has_loaded(stores: Stores, client_id: UUID, count: int) -> bool:
    batch_id = await _batch_id(stores)
    pool = None if batch_id is None else await pool_in_redis(stores, batch_id, client_id)
    return pool is not None and pool.loaded >= count


async def _is_in_the_first_pool(stores: Stores) -> bool:
    return await _has_loaded(stores, A, 1)


async def _is_in_the_second_pool(stores: Stores) -> bool:
    return await _has_loaded(stores, B, 20_000)


STAGES: Final = (
    _has_batch, _is_copying, _is_looking_for_duplicates, _is_inserting, _is_committed, _is_in_the_first_pool,
    _is_in_the_second_pool,
)  # fmt: skip


async def _kill_when(process: subprocess.Popen[bytes], reached: Callable[[], Awaitable[bool]]) -> None:
    """Freezes the process to look, so that it cannot run past the stage while we do."""
    looked = psutil.Process(process.pid)
    async with asyncio.timeout(LIMIT_S):
        while True:
            assert process.poll() is None, "it ended before the stage was seen"
            looked.suspend()
            if await reached():
                break
            looked.resume()
            await asyncio.sleep(0.003)
    process.kill()
    process.wait()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__.strip("_"))
async def test_killed_and_run_again(
    preload: Preload, stores: Stores, stage: Callable[[Stores], Awaitable[bool]]
) -> None:
    rows = [row for pair in zip(codes("A", HALF), codes("B", HALF, B), strict=True) for row in pair]
    file = preload.write(csv_of(rows))
    command = (file, "--batch-name", BATCH, "--rules", RULES, "--json")
    with preload.start(*command) as process:
        await _kill_when(process, lambda: stage(stores))
    report = (await preload(*command)).json

    assert report["rows"] == 2 * HALF
    assert report["loaded"] + report["duplicates_in_batch"] == 2 * HALF
    assert report["duplicates_in_batch"] in (0, 2 * HALF)
    batch_id = UUID(report["batch_id"])
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 1
    for client, prefix in ((A, "A"), (B, "B")):
        pool = await check_agreement(stores, batch_id, client)
        assert pool.codes == [code for _, code in codes(prefix, HALF)]
    waiting = await stores.postgres.fetchval("SELECT count(*) FROM pools WHERE loaded < total")
    assert waiting == 0


async def test_killed_while_codes_go_out(preload: Preload, stores: Stores) -> None:
    batch = await new_batch(stores, BATCH)
    await load(stores, batch, codes("A", 1_000))
    file = preload.write(csv_of(codes("A", HALF)))
    with preload.start(file, "--batch-name", BATCH) as process:
        await _kill_when(process, lambda: _has_loaded(stores, A, 5_000))
    await issue(stores, batch.id, A, 3_000)
    report = (await preload(file, "--batch-name", BATCH, "--json")).json
    assert (report["loaded"], report["duplicates_in_batch"]) == (0, HALF)
    pool = await check_agreement(stores, batch.id, A)
    assert (pool.issued, pool.loaded) == (3_000, HALF)
