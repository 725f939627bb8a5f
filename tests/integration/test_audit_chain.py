"""The audit log as a chain: tampering is found, acts at the same time do not fork it, retention cuts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from issuer.access.api_keys import create_key
from issuer.access.audit import list_entries, record
from issuer.access.audit_chain import (
    AuditHead,
    InvalidAuditHeadError,
    cut,
    entry_hash,
    parse_head,
    read_head,
    verify,
)
from issuer.batches.batch import NewBatch
from issuer.batches.store import create_batch
from issuer.settings import Settings
from issuer.storage.postgres import Pool, close_pool, connect_pool
from issuer.storage.stores import Stores
from tests.support.audit_log import act, acts, age, rehash, tamper


@pytest_asyncio.fixture
async def postgres(settings: Settings) -> AsyncIterator[Pool]:
    pool = await connect_pool(settings, size=8)
    yield pool
    await close_pool(pool)


async def fault(postgres: Pool, head: AuditHead | None = None) -> str:
    found = (await verify(postgres, head)).fault
    assert found is not None
    return found


async def test_each_entry_carries_the_hash_of_the_one_before(postgres: Pool) -> None:
    assert (await read_head(postgres)) == AuditHead(0, bytes(32))
    assert (await verify(postgres)).fault is None
    # What a form with separators alone would confuse: an empty field, the separator, characters of several bytes.
    await act(postgres, "", reason="3:a,b", name="Zürich \u202e", number=1.50)
    await acts(postgres, 3)
    verified = await verify(postgres)
    assert (verified.entries, verified.fault, verified.newest.id) == (4, None, 4)
    rows = await postgres.fetch("SELECT id, at, actor, action, subject, detail::text, hash FROM audit_log ORDER BY id")
    previous = bytes(32)
    for row in rows:
        assert row["hash"] == entry_hash(previous, *tuple(row)[:-1])
        previous = row["hash"]
    assert await read_head(postgres) == AuditHead(4, previous) == parse_head(str(verified.newest))
    assert await postgres.fetchval("SELECT count(*) FROM audit_intake") == 0
    assert [entry.hash for entry in (await list_entries(postgres)).items] == [row["hash"] for row in reversed(rows)]


def test_the_hash_is_that_of_the_documented_form() -> None:
    from datetime import UTC, datetime
    from hashlib import sha256

    content = b"1:1,13:1000000000001,3:ann,6:change,9:caf\xc3\xa9 \xe2\x82\xac,2:{},"
    at = datetime(1970, 1, 12, 13, 46, 40, 1, tzinfo=UTC)
    assert entry_hash(bytes(32), 1, at, "ann", "change", "café €", "{}") == sha256(bytes(32) + content).digest()


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        (("UPDATE audit_log SET actor = 'cli:bob' WHERE id = 3",), "entry 3 is not the one"),
        (("UPDATE audit_log SET at = at + interval '1 microsecond' WHERE id = 3",), "entry 3 is not the one"),
        (("UPDATE audit_log SET detail = detail || '{\"more\": 1}' WHERE id = 3",), "entry 3 is not the one"),
        (("UPDATE audit_log SET hash = sha256('forged') WHERE id = 3",), "entry 3 is not the one"),
        (("DELETE FROM audit_log WHERE id = 3",), "entry 3 is missing; the next one is 4"),
        (("DELETE FROM audit_log WHERE id = 1",), "entry 1 is missing; the next one is 2"),
        (
            (
                "DELETE FROM audit_log WHERE id = 3",
                "UPDATE audit_log SET id = id + 100 WHERE id > 3",
                "UPDATE audit_log SET id = id - 101 WHERE id > 3",
            ),
            "entry 3 is not the one",
        ),
        (
            (
                "UPDATE audit_log SET id = 100 WHERE id = 2",
                "UPDATE audit_log SET id = 2 WHERE id = 4",
                "UPDATE audit_log SET id = 4 WHERE id = 100",
            ),
            "entry 2 is not the one",
        ),
        (
            (
                "UPDATE audit_log SET id = id + 100 WHERE id > 2",
                "UPDATE audit_log SET id = id - 99 WHERE id > 2",
                "INSERT INTO audit_log SELECT 3, at, actor, action, subject, detail, hash FROM audit_log WHERE id = 2",
            ),
            "entry 3 is not the one",
        ),
        (
            ("INSERT INTO audit_log SELECT 6, at, actor, action, subject, detail, hash FROM audit_log WHERE id = 5",),
            "entry 6 is not the one",
        ),
        (("DELETE FROM audit_log WHERE id = 5",), "ends with entry 4, but entry 5 was written last"),
        (("UPDATE audit_ends SET id = 2 WHERE which = 'removed'",), "entry 3 is missing; the next one is 1"),
    ],
)
async def test_a_changed_removed_reordered_or_inserted_entry_is_found(
    postgres: Pool, statements: tuple[str, ...], what: str
) -> None:
    await acts(postgres, 5)
    await tamper(postgres, *statements)
    assert what in await fault(postgres)


async def test_newest_entries_that_are_cut_off_are_found_with_a_remembered_head(postgres: Pool) -> None:
    await acts(postgres, 5)
    head = await read_head(postgres)
    await tamper(
        postgres,
        "DELETE FROM audit_log WHERE id > 3",
        "UPDATE audit_ends SET (id, hash) = (SELECT id, hash FROM audit_log WHERE id = 3) WHERE which = 'newest'",
    )
    assert (await verify(postgres)).fault is None
    assert await fault(postgres, head) == "the log ends with entry 3, but entry 5 was there"
    # Neither do other entries in their place deceive it.
    await acts(postgres, 4)
    assert (await verify(postgres)).fault is None
    assert await fault(postgres, head) == "entry 5 is another one than the remembered entry 5"
    assert (await verify(postgres, await read_head(postgres))).fault is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'cli:bob'",
        "UPDATE audit_log SET actor = 'cli:bob' WHERE false",
        "DELETE FROM audit_log WHERE id = 2",
        "TRUNCATE audit_log",
    ],
)
async def test_a_change_of_the_log_is_refused_to_its_owner(postgres: Pool, statement: str) -> None:
    await acts(postgres, 2)
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await postgres.execute(statement)
    assert (await verify(postgres)).entries == 2


async def test_four_writers_at_the_same_time_write_one_chain(postgres: Pool, stores: Stores) -> None:
    """Acts of several kinds, each with locks of its own: none deadlocks, none forks the chain."""
    before = (await verify(postgres)).entries
    batch = await create_batch(stores, NewBatch("shared"), actor="test")
    failed = asyncio.Event()

    async def many_records() -> None:
        async with postgres.acquire() as connection:
            for number in range(25):
                async with connection.transaction():
                    # Two entries, locks between them, and one that is rolled back.
                    await record(connection, actor="a", action="one", subject="x", detail={"n": number})
                    await connection.fetch("SELECT FROM batches WHERE id = $1 FOR UPDATE", batch.id)
                    await record(connection, actor="a", action="two", subject="x", detail={"n": number})
                try:
                    async with connection.transaction():
                        await record(connection, actor="a", action="never", subject="x", detail={})
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    failed.set()

    async def keys() -> None:
        for _ in range(25):
            await create_key(postgres, name="till", scopes=["redeem"], actor="b")

    await asyncio.gather(many_records(), many_records(), keys(), keys())
    assert failed.is_set()
    verified = await verify(postgres)
    assert verified.fault is None
    assert verified.entries == before + 1 + 2 * 50 + 2 * 25
    assert await postgres.fetchval("SELECT count(*) FROM audit_log WHERE action = 'never'") == 0


async def test_an_act_that_has_not_committed_holds_no_other_up(postgres: Pool) -> None:
    """A client that stops within its transaction, after its entry: others commit, and its entry comes last."""
    async with postgres.acquire() as connection, connection.transaction():
        await record(connection, actor="slow", action="x", subject="y", detail={})
        async with asyncio.timeout(30):
            await acts(postgres, 3)
        assert (await verify(postgres)).entries == 3
    assert [entry.actor for entry in (await list_entries(postgres)).items] == ["slow", *["cli:ann"] * 3]
    assert (await verify(postgres)).fault is None


async def test_retention_cuts_the_oldest_entries_and_the_chain_stays_whole(postgres: Pool) -> None:
    await acts(postgres, 6)
    await age(postgres, 4)
    middle = await head_of(postgres, 4)
    assert await cut(postgres, 60) == 4
    verified = await verify(postgres, middle)
    # Entries 5 and 6, and that of the cut.
    assert (verified.fault, verified.removed, verified.entries, verified.newest.id) == (None, middle, 3, 7)
    newest = (await list_entries(postgres)).items[0]
    assert (newest.action, newest.detail) == ("audit.cut", {"entries": 4, "last": 4, "hash": middle.hash.hex()})
    assert await cut(postgres, 60) == 0
    with pytest.raises(InvalidAuditHeadError, match="removed by retention"):
        await verify(postgres, AuditHead(3, bytes(32)))
    await acts(postgres, 2)
    await tamper(postgres, "UPDATE audit_ends SET hash = sha256('x') WHERE which = 'removed'")
    assert "entry 5 is not the one" in await fault(postgres)


async def test_a_cut_takes_bounded_steps_and_stops_at_the_first_young_entry(postgres: Pool) -> None:
    await acts(postgres, 6)
    # The clock was wrong while entry 3 was written: what follows stays with it.
    await age(postgres, 6)
    await tamper(postgres, "UPDATE audit_log SET at = now() WHERE id = 3", *rehash())
    statement = "SELECT audit_cut(now() - interval '40 days', $1)"
    assert [await postgres.fetchval(statement, 1) for _ in range(3)] == [1, 1, 0]
    assert await postgres.fetchval("SELECT array_agg(id ORDER BY id) FROM audit_log") == [3, 4, 5, 6, 7, 8]
    assert (await verify(postgres)).fault is None


async def test_entries_of_the_last_30_days_cannot_be_cut(postgres: Pool) -> None:
    await acts(postgres, 2)
    with pytest.raises(asyncpg.RestrictViolationError, match="last 30 days"):
        await cut(postgres, 29)
    # With a time that is not known to be long ago, every entry would be one that is old enough.
    for older_than in ("NULL", "'infinity'"):
        with pytest.raises(asyncpg.RestrictViolationError, match="last 30 days"):
            await postgres.fetchval(f"SELECT audit_cut({older_than}, 1000)")
    assert (await verify(postgres)).entries == 2


async def test_a_cut_of_everything_keeps_the_chain(postgres: Pool) -> None:
    await acts(postgres, 3)
    await age(postgres, 3)
    assert await cut(postgres, 31) == 3
    verified = await verify(postgres)
    assert (verified.fault, verified.entries, verified.newest.id) == (None, 1, 4)


async def head_of(postgres: Pool, id: int) -> AuditHead:
    return AuditHead(id, await postgres.fetchval("SELECT hash FROM audit_log WHERE id = $1", id))


@pytest.mark.parametrize("text", ["", "7", "7:", "7:abc", "x:" + "0" * 64, "-1:" + "0" * 64, f"{10**18}:" + "0" * 64])
def test_what_is_not_a_head_is_refused(text: str) -> None:
    with pytest.raises(InvalidAuditHeadError):
        parse_head(text)


def test_a_head_is_read_as_it_is_written() -> None:
    head = AuditHead(7, uuid4().bytes * 2)
    assert parse_head(f" {str(head).upper()}\n") == head
