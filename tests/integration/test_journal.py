"""The receipt journal on a real disk, with a real ledger."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from issuer.contract.events import encode_who
from issuer.journal import journal as journal_module
from issuer.journal.dead_journals import dead_journals
from issuer.journal.journal import Journal, JournalError, JournalHead, keep_token, read_token
from issuer.journal.segments import Receipt, read_segment, segments
from issuer.registration.replay import delete_recorded, replay
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.recovery import drain, engine_of, make_batch, redeem, seqs

INSTALLATION = uuid.UUID(int=5)
RECEIPT = Receipt(epoch=3, partition=2, at_ms=1_700_000_000_123, call_id="0" * 32, serial=1, facts=1, data=b"R 1 1 0\n")


def test_receipts_are_read_as_written_up_to_a_cut_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INSTALLATION)
    journal.append([RECEIPT] * 3)
    (path,) = segments(journal.directory)
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
        Journal(tmp_path / "file" / "journals", INSTALLATION)


def test_a_full_segment_is_closed_and_the_bound_of_all_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 100)
    journal = Journal(tmp_path, INSTALLATION, max_bytes=1_000)
    for _ in range(4):
        journal.append([RECEIPT])
    assert sum(1 for path in segments(journal.directory) for _ in read_segment(path)) == 4
    assert len(segments(journal.directory)) > 1

    def fill() -> None:
        for _ in range(20):
            journal.append([RECEIPT])

    with pytest.raises(JournalError, match="its bound is 1000"):
        fill()
    # What was deleted makes room.
    for path in segments(journal.directory):
        path.unlink()
    journal.append([RECEIPT])
    journal.close()


def test_a_journal_is_locked_while_its_process_lives_and_of_its_installation(tmp_path: Path) -> None:
    journal = Journal(tmp_path, INSTALLATION)
    journal.append([RECEIPT])
    token = uuid.uuid4()
    journal.note_token(token)
    assert dead_journals(tmp_path, INSTALLATION) == []
    journal.close()
    (dead,) = dead_journals(tmp_path, INSTALLATION)
    assert (dead.head.id, dead.head.token, dead.is_complete) == (journal.id, token.hex, True)
    assert dead_journals(tmp_path, uuid.UUID(int=6)) == []
    head = JournalHead.from_json((journal.directory / "head").read_bytes())
    (journal.directory / "head").write_bytes(replace(head, boot_id="another boot").to_json())
    (incomplete,) = dead_journals(tmp_path, INSTALLATION)
    assert not incomplete.is_complete
    # What a stopped removal has left is no journal, and is deleted.
    journal.directory.rename(removed := journal.directory.with_suffix(".removed"))
    assert not dead.is_there
    assert dead_journals(tmp_path, INSTALLATION) == []
    assert not removed.exists()


def test_processes_of_a_host_keep_tokens_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them settle the journals of a dead process when an epoch ends, and keep the token of that beside them."""
    installation, first, second = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    sync, kept = os.fsync, list[bool]()

    def sync_while_another_keeps(file: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        kept.append(keep_token(tmp_path, installation, second))
        assert read_token(tmp_path, installation) == second.hex
        sync(file)

    monkeypatch.setattr(os, "fsync", sync_while_another_keeps)
    kept.append(keep_token(tmp_path, installation, first))
    assert kept == [True, True]
    assert read_token(tmp_path, installation) == first.hex
    assert [path.name for path in tmp_path.iterdir()] == [f"{installation}.lineage"]


def test_a_journal_is_on_the_disk_before_its_first_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(tmp_path, INSTALLATION)
    head, *directories = synced
    assert (head.startswith("head."), directories) == (True, [f"{journal.id}.new", tmp_path.name])
    journal.append([RECEIPT])
    assert len(synced) == 3, "appends are not synced"
    journal.close()


async def test_a_segment_is_deleted_once_it_is_recorded(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 50)
    assert settings.journals is not None
    async with engine_of(settings, stores) as engine, stores.postgres.acquire() as connection:
        await redeem(engine, batch_id, 20)
        lineage, journal = stores.incarnations.lineage, engine._sender.journal
        assert journal is not None
        directory = journal.directory
        (segment,) = segments(directory)
        segment.rename(segment.with_suffix(".closed"))
        assert await delete_recorded(connection, journal, lineage) == 0
        assert (await replay(connection, directory)).inserted == 20
        assert (await replay(connection, directory)).duplicates == 20
        await drain(stores)
        assert await seqs(stores, "redemptions") == list(range(1, 21))
        # Unless the process itself is faster. A Postgres that loses the ledger's rows does not know the token.
        await delete_recorded(connection, journal, lineage)
        assert not segment.with_suffix(".closed").exists()
        token = JournalHead.from_json((directory / "head").read_bytes()).token
        assert await connection.fetchval("SELECT kind FROM lineage WHERE token = $1::text::uuid", token) == "receipts"
    assert (
        await stores.postgres.fetchval(
            "SELECT kind FROM lineage WHERE token = $1::text::uuid",
            read_token(settings.journals, stores.incarnations.installation_id),
        )
        == "settling"
    ), "the directory keeps what the journal kept"
    assert list(settings.journals.glob("*/")) == []
    assert await stores.postgres.fetchval("SELECT count(*) FROM anomalies") == 0


_DEAD = """
INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw)
VALUES (2, $2, 3, 77, $1, 'x', '{}')"""


async def test_a_segment_is_kept_until_each_of_its_seqs_is_recorded_or_a_dead_letter(
    stores: Stores, tmp_path: Path
) -> None:
    item = b"\0\x01c" + encode_who(None, 0, None)
    granted = replace(RECEIPT, facts=4, data=b"R 77 1 3\n" + 3 * item + b"R 77 5 1\n" + item)
    journal = Journal(tmp_path, stores.incarnations.installation_id)
    # The second is a replay of one of the first.
    journal.append([granted, replace(RECEIPT, data=b"R 77 2 1\n" + item)])
    journal.close_segment()
    async with stores.postgres.acquire() as connection:
        for seq in (1, 2, 3, 5):
            assert await delete_recorded(connection, journal, stores.incarnations.lineage) == 0
            await connection.execute(_DEAD, seq, str(seq))
        assert await delete_recorded(connection, journal, stores.incarnations.lineage) == 1
    journal.close()
