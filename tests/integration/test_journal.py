"""The receipt journal on a real disk, with a real ledger."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from issuer.journal import segments as journal_module
from issuer.journal.segments import Journal, JournalError, Receipt, delete_recorded, read_segment, segments
from issuer.recovery.replay import replay
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.recovery import drain, engine_of, make_batch, redeem, seqs

RECEIPT = Receipt(epoch=3, partition=2, at_ms=1_700_000_000_123, call_id="0" * 32, serial=1, facts=1, data=b"R 1 1 0\n")


def test_receipts_are_read_as_written_up_to_a_cut_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([RECEIPT] * 3)
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    assert list(read_segment(path)) == [RECEIPT] * 3
    for cut in range(len(whole) * 2 // 3, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(read_segment(path)) == [RECEIPT] * 2
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert list(read_segment(path)) == [RECEIPT] * 2
    journal.close()


def test_an_unusable_directory_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be used"):
        Journal(tmp_path / "file" / "journal")


def test_a_full_segment_is_closed_and_an_empty_one_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 100)
    journal = Journal(tmp_path)
    for _ in range(4):
        journal.append([RECEIPT])
    journal.close()
    assert sum(1 for path in segments(tmp_path) for _ in read_segment(path)) == 4
    assert len(segments(tmp_path)) > 1
    assert {path.suffix for path in segments(tmp_path)} == {".closed"}
    Journal(tmp_path / "empty").close()
    assert segments(tmp_path / "empty") == []


def test_a_segment_is_locked_while_its_name_says_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the keeper of another process would delete it while it is written."""
    seen: list[list[str]] = []

    def look(then: Callable[..., None]) -> Callable[..., None]:
        def looked(*args: int) -> None:
            seen.append([path.suffix for path in segments(tmp_path)])
            then(*args)

        return looked

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", look(fcntl.flock))
        journal = Journal(tmp_path)
    assert seen == [[]]
    journal.append([RECEIPT])
    assert [path.suffix for path in segments(tmp_path)] == [".open"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", look(os.close))
        journal.close()
    assert seen == [[], [".closed"]]


async def test_a_segment_is_deleted_once_it_is_recorded_and_has_no_writer(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    batch_id = await make_batch(stores, 50)
    async with engine_of(settings, stores, journal) as engine:
        await redeem(engine, batch_id, 20)
    async with stores.postgres.acquire() as connection:
        assert await delete_recorded(connection, tmp_path) == 0
        journal.close()
        assert await delete_recorded(connection, tmp_path) == 0
        assert (await replay(connection, tmp_path)).inserted == 20
        assert (await replay(connection, tmp_path)).duplicates == 20
        await drain(stores)
        assert await seqs(stores, "redemptions") == list(range(1, 21))
        assert await delete_recorded(connection, tmp_path) == 1
    assert segments(tmp_path) == []
    assert await stores.postgres.fetchval("SELECT count(*) FROM anomalies") == 0


async def test_a_segment_with_a_writer_is_not_deleted(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    batch_id = await make_batch(stores, 5)
    async with engine_of(settings, stores, journal) as engine:
        await redeem(engine, batch_id, 1)
    await drain(stores)
    async with stores.postgres.acquire() as connection:
        assert await delete_recorded(connection, tmp_path) == 0
        journal.close()
        assert await delete_recorded(connection, tmp_path) == 1
