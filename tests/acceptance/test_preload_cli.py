"""`issuer preload` as a process: output, refusals, and kill -9 at every stage of a load."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import Command, CommandInProcess, kill_when
from tests.support.input_files import CLIENT, workbook
from tests.support.loading import A, B, check_agreement, codes, csv_of, issue, load, new_batch, pool_in_redis

RULES: Final = '{"maxpercustomer":2,"timelimit":30}'


@pytest.fixture
def preload(settings: Settings, tmp_path: Path) -> Command:
    return Command(settings, tmp_path, "preload")


@pytest.fixture
def preload_here(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandInProcess:
    return CommandInProcess(settings, tmp_path, monkeypatch, "preload")


@pytest.mark.long
async def test_a_load_is_reported(preload: Command, stores: Stores) -> None:
    file = preload.write(csv_of(codes("A", 30) + codes("B", 20, B) + codes("A", 3)) + b"band-42,X\n")
    done = await preload(file, "--batch-name", "Summer Sale", "--rules", RULES, "--json")
    report = done.json
    assert (report["rows"], report["loaded"], report["rejected"]) == (54, 50, 1)
    assert (report["duplicates_in_file"], report["duplicates_in_batch"]) == (3, 0)
    assert report["rejections"][0]["line"] == 55
    assert report["new_batch"]
    batch_id = UUID(report["batch_id"])
    for client, count in ((A, 30), (B, 20)):
        assert (await check_agreement(stores, batch_id, client)).loaded == count

    again = (await preload(file, "--batch-name", "Summer Sale", "--rules", RULES, "--json")).json
    assert (again["batch_id"], again["loaded"], again["duplicates_in_batch"]) == (report["batch_id"], 0, 50)
    assert not again["new_batch"]

    shown = await preload(file, "--batch-id", str(batch_id))
    assert shown.status == 0
    assert "line 55: unknown client 'band-42': issuer clients create band-42, or --create-clients" in shown.out
    assert "duplicates in the batch" in shown.out
    assert shown.err == ""
    assert "upload field" not in shown.out
    many = ["client_id,code", *["band-42,X"] * 30, f"{A},", *["band-43,X"] * 6]
    unknown = "unknown client 'band-{0}': issuer clients create band-{0}, or --create-clients"
    expected = [
        *(f"  line {line}: {unknown.format(42)}" for line in range(2, 7)),
        "  … and 25 more rows with the same reason",
        "  line 32: empty code",
        *(f"  line {line}: {unknown.format(43)}" for line in range(33, 38)),
        "  … and 1 more row with the same reason",
    ]
    refused = await preload(preload.write("\n".join(many).encode(), "many.csv"), "--batch-id", str(batch_id))
    assert "\n".join(expected) in refused.out
    created = (await preload(file, "--batch-id", str(batch_id), "--create-clients", "--json")).json
    assert (created["loaded"], created["created_clients"]) == (1, ["band-42"])

    chosen = str(UUID(int=7))
    for new in (True, False):
        words = ("--batch-id", chosen, "--batch-name", "Autumn", "--client", "band-42", "--json")
        report = (await preload("-", *words, stdin=b"code\nY\n")).json
        assert (report["batch_id"], report["new_batch"], report["loaded"]) == (chosen, new, int(new))


@pytest.mark.long
async def test_rows_of_the_default_client_are_reported_as_such(preload: Command, settings: Settings) -> None:
    preload.environment["ISSUER_DEFAULT_CLIENT"] = str(A)
    await Command(settings, preload.directory, "clients", "create")(str(A), "--name", "Demo shop")
    file = preload.write(f"client,code\n,X1\n \t,X2\n{A},X3\n{B},Y\n".encode())
    shown = (await preload(file, "--batch-name", "Summer")).out
    given = f"given to the default client Demo shop ({A}) (ISSUER_DEFAULT_CLIENT)"
    assert f"rows without a client: 2, {given}\n" in shown
    assert f"client Demo shop ({A}): 3 new, 3 in total, 3 in Redis\n" in shown
    assert f"client {B}: 1 new, 1 in total, 1 in Redis\n" in shown
    bare = preload.write(b"code\nX1\nX2\n", "bare.csv")
    shown = (await preload(bare, "--batch-name", "Summer")).out
    assert f"rows without a client: 2, {given}\n" in shown
    assert "nothing new: all codes are in the batch already\n" in shown
    shown = (await preload(bare, "--batch-name", "Summer", "--client", str(B))).out
    assert f"nothing new: all codes are in the batch already\n  2 of the client Demo shop ({A})\n" in shown
    assert "ISSUER_DEFAULT_CLIENT" not in shown


@pytest.mark.long
async def test_a_file_is_read_from_a_path_or_standard_input(preload: Command, stores: Stores) -> None:
    batch = await new_batch(stores)
    bare = b"code\nX1\nX2\n"
    piped = (await preload("-", "--batch-id", str(batch.id), "--client", str(A), "--json", stdin=bare)).json
    assert piped["loaded"] == 2
    file = preload.write(b"\xef\xbb\xbfCode ; x\r\n")
    refused = await preload(file, "--batch-id", str(batch.id))
    assert refused.status == 1
    assert refused.err.startswith("error: nothing was loaded: the file needs the columns 'code' and 'client_id'; ")
    assert refused.err.endswith("\nhint: --client CLIENT names the client of all codes of a file\n")
    book = preload.write(workbook(("X3",), (4,)), "codes.csv")
    assert (await preload(book, "--batch-id", str(batch.id), "--json")).json["loaded"] == 2
    assert (await check_agreement(stores, batch.id, A)).codes == ["X1", "X2"]
    assert (await check_agreement(stores, batch.id, CLIENT)).codes == ["X3", "4"]


@pytest.mark.long
async def test_a_refused_file_leaves_no_open_batch(preload: Command, stores: Stores) -> None:
    refused = await preload(preload.write(b"client_id;code\nX\n"), "--batch-name", "Summer Sale", "--rules", RULES)
    assert (refused.status, "rejected" in refused.out) == (1, True)
    assert refused.err == "error: nothing was loaded: none of 1 rows is valid: line 2: too few columns\n"
    assert not await stores.postgres.fetchval("SELECT count(*) FROM batches WHERE ended_at IS NULL")
    file = preload.write(csv_of(codes("A", 3)))
    report = (await preload(file, "--batch-name", "Summer Sale", "--rules", '{"maxpercustomer":1}', "--json")).json
    assert (report["new_batch"], report["loaded"]) == (True, 3)
    # A batch with codes stays open, whatever is wrong with the next file.
    assert (await preload(preload.write(b"x\n", "bad.csv"), "--batch-name", "Summer Sale")).status == 1
    assert await stores.postgres.fetchval(
        "SELECT ended_at IS NULL FROM batches WHERE id = $1", UUID(report["batch_id"])
    )


async def test_a_dry_run_creates_no_batch(preload: Command, stores: Stores) -> None:
    file = preload.write(csv_of(codes("A", 30)))
    report = (await preload(file, "--batch-name", "Not yet", "--dry-run", "--json")).json
    assert (report["loaded"], report["batch_id"], report["dry_run"]) == (30, None, True)
    assert report["redis_bytes"] > 0
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 0
    shown = (await preload(file, "--batch-name", "Not yet", "--dry-run")).out
    assert "would be loaded" in shown
    assert "30 would be in Redis" in shown


@pytest.mark.long
async def test_times_apply_to_a_new_batch(preload: Command, stores: Stores) -> None:
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
        ((), "give --batch-name or --batch-id"),
        (("--batch-id", "x"), "--batch-id: not a UUID"),
        (("--batch-name", str(A)), "name must not have the form of a UUID"),
        (("--batch-name", "x", "--client", "x"), "unknown client 'x': issuer clients create x"),
        (("--batch-name", "x", "--rules", "{"), "rules: not valid JSON"),
        (("--batch-name", "x", "--rules", '{"max":1}'), "rules: unknown key 'max'"),
        (("--batch-name", "x", "--starts-at", "2031-06-01T00:00:00"), "--starts-at: a time needs an offset"),
        (("--batch-name", "x", "--ends-at", "soon"), "--ends-at: not an ISO 8601 time"),
        (("--batch-name", " "), "name"),
    ],
)
def test_invalid_options_are_refused(preload_here: CommandInProcess, words: tuple[str, ...], message: str) -> None:
    (preload_here.directory / "codes.csv").write_bytes(csv_of(codes("A", 1)))
    done = preload_here("codes.csv", *words)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.out == ""
    assert preload_here.rows("batches") == 0


@pytest.mark.long
async def test_options_that_contradict_the_batch_are_refused(preload: Command, stores: Stores) -> None:
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


@pytest.mark.long
async def test_progress_is_shown_on_a_terminal(preload: Command, stores: Stores) -> None:
    batch = await new_batch(stores)
    file = preload.write(csv_of(codes("A", 100_000)))
    words = (file, "--batch-id", str(batch.id))
    shown = await _on_a_terminal(preload, *words)
    assert "reading" in shown
    assert "loading" in shown
    assert "codes/s" in shown
    assert re.search(r"\d\d:\d\d", shown), "the time left"

    assert await _on_a_terminal(preload, *words, "--json") == ""
    assert (await preload(*words)).err == ""


async def _on_a_terminal(preload: Command, *words: str) -> str:
    """Return the output on a terminal."""
    screen, terminal = pty.openpty()
    try:
        with preload.start(*words, stderr=terminal) as process:
            os.close(terminal)
            shown = await asyncio.to_thread(_read_all, screen)
    finally:
        os.close(screen)
    assert process.returncode == 0
    return shown


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

HALF: Final = 30_000
BATCH: Final = "Killed"
ROWS: Final = [row for pair in zip(codes("A", HALF), codes("B", HALF, B), strict=True) for row in pair]


async def _is_there(stores: Stores, what: str) -> bool:
    return bool(await stores.postgres.fetchval(f"SELECT EXISTS (SELECT FROM {what})"))


async def _runs(stores: Stores, statement: str, *, waiting: bool = False) -> bool:
    """Return whether a connection to this database runs a statement with this beginning (and waits for a lock)."""
    count = await stores.postgres.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND datname = current_database()"
        " AND ltrim(query, E' \\n') LIKE $1 AND (NOT $2 OR wait_event_type = 'Lock')",
        statement + "%",
        waiting,
    )
    return bool(count)


async def _has_loaded(stores: Stores, client_id: UUID, count: int) -> bool:
    batch_id = await stores.postgres.fetchval("SELECT id FROM batches WHERE name = $1", BATCH)
    pool = None if batch_id is None else await pool_in_redis(stores, batch_id, client_id)
    return pool is not None and pool.loaded >= count


async def _check_second_run(preload: Command, stores: Stores, file: str, *, committed: bool) -> None:
    report = (await preload(file, "--batch-name", BATCH, "--json")).json
    assert (report["loaded"], report["duplicates_in_batch"]) == ((0, 2 * HALF) if committed else (2 * HALF, 0))
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 1
    assert await stores.postgres.fetchval("SELECT count(*) FROM codes") == 2 * HALF
    for client, prefix in ((A, "A"), (B, "B")):
        pool = await check_agreement(stores, UUID(report["batch_id"]), client)
        assert pool.codes == [code for _, code in codes(prefix, HALF)]
    assert not await _is_there(stores, "pools WHERE loaded < total")


@pytest.mark.long
async def test_a_load_killed_while_reading_is_completed(preload: Command, stores: Stores) -> None:
    file = preload.write(csv_of(ROWS))
    with preload.start("-", "--batch-name", BATCH, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        await asyncio.to_thread(process.stdin.write, csv_of(ROWS)[: 20 * HALF])
        await kill_when(process, lambda: _runs(stores, "COPY "))
    await _check_second_run(preload, stores, file, committed=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("codes", "INSERT INTO codes"),
        pytest.param("audit_intake", "INSERT INTO audit_intake", marks=pytest.mark.long),
    ],
)
async def test_a_load_killed_within_its_transaction_is_completed(
    preload: Command, stores: Stores, table: str, statement: str
) -> None:
    """Before the codes are inserted, and when only the commit is missing."""
    await new_batch(stores, BATCH)
    file = preload.write(csv_of(ROWS))
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN SHARE MODE")
        with preload.start(file, "--batch-name", BATCH) as process:
            await kill_when(process, lambda: _runs(stores, statement, waiting=True))
    await _check_second_run(preload, stores, file, committed=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("client", "count"),
    [(A, 0), pytest.param(A, 1, marks=pytest.mark.long), pytest.param(B, 10_000, marks=pytest.mark.long)],
)
async def test_a_load_killed_after_its_commit_is_completed(
    preload: Command, stores: Stores, client: UUID, count: int
) -> None:
    file = preload.write(csv_of(ROWS))

    async def reached() -> bool:
        return await (_has_loaded(stores, client, count) if count else _is_there(stores, "pools WHERE total > 0"))

    with preload.start(file, "--batch-name", BATCH) as process:
        await kill_when(process, reached)
    await _check_second_run(preload, stores, file, committed=True)


@pytest.mark.long
async def test_a_load_killed_while_codes_are_issued_is_completed(preload: Command, stores: Stores) -> None:
    batch = await new_batch(stores, BATCH)
    await load(stores, batch, codes("A", 1_000))
    file = preload.write(csv_of(codes("A", HALF)))
    with preload.start(file, "--batch-name", BATCH) as process:
        await kill_when(process, lambda: _has_loaded(stores, A, 5_000))
    await issue(stores, batch.id, A, 3_000)
    report = (await preload(file, "--batch-name", BATCH, "--json")).json
    assert (report["loaded"], report["duplicates_in_batch"]) == (0, HALF)
    pool = await check_agreement(stores, batch.id, A)
    assert (pool.issued, pool.loaded) == (3_000, HALF)
