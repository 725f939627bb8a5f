"""The receipt journal: a second copy of every redemption on the API's own disk, which outlives a lost Redis.

Each API process appends to segment files of its own, one append per pipeline, before it sends the answers. An append is
in the kernel's page cache: it survives the process, but not a power cut. A closed segment is deleted once all of it is
in the ledger. A recovery replays the journals of its host; a repeated replay changes nothing.

A record is ``length, crc32`` (4 bytes each, big-endian) and that many bytes: ``version epoch partition ms call_id
serial facts\\n`` and the event data as `issuer.contract.events` describes them; the version is that of the events. A
record that is cut or damaged ends its segment: nothing after it was answered.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

import structlog

from issuer.contract.events import EVENT_FORMAT, NewerEventError, RedemptionColumns, check_version, decode_redemptions
from issuer.storage.postgres import AnyConnection

log = structlog.get_logger()

SEGMENT_BYTES: Final = 16 * 1024 * 1024
SEGMENT_S: Final = 60.0
"""A segment is closed when it is this large or this old, so that it can be deleted soon."""
BATCH_SIZE: Final = 5_000

_HEAD = struct.Struct(">II")


class JournalError(Exception):
    """The directory of the journal cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was answered with codes: an event's data, and the fields of the stream entry beside them.

    Of what one script call granted, or of one grant that was answered again (`issuer.engine.receipts`), with the epoch,
    time and serial of that grant. `serial`: of the first of its `facts`. `call_id` empty: not known.
    """

    epoch: int
    partition: int
    at_ms: int
    call_id: str
    serial: int
    facts: int
    data: bytes

    def encode(self) -> bytes:
        head = f"{EVENT_FORMAT} {self.epoch} {self.partition} {self.at_ms} {self.call_id} {self.serial} {self.facts}\n"
        body = head.encode() + self.data
        return _HEAD.pack(len(body), zlib.crc32(body)) + body

    @classmethod
    def decode(cls, body: bytes) -> Receipt:
        """Decode a record. Raises NewerEventError when a later version of this program has written it."""
        head, _, data = body.partition(b"\n")
        version, _, rest = head.decode().partition(" ")
        check_version(int(version))
        epoch, partition, at_ms, call_id, serial, facts = rest.split(" ")
        return cls(int(epoch), int(partition), int(at_ms), call_id, int(serial), int(facts), data)

    def add_to(self, columns: RedemptionColumns) -> None:
        """Append the redemptions to `columns`. Raises ValueError when the data are not those of an event."""
        call_id = UUID(hex=self.call_id) if self.call_id else None
        for redemption in decode_redemptions(
            self.data, epoch=self.epoch, at_ms=self.at_ms, call_id=call_id, serial=self.serial
        ):
            columns.append(redemption)


class Journal:
    """The writer of the segments of one process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"{os.getpid()}-{time.time_ns():x}"
        self._number = 0
        self._file: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._opened_at = 0.0
        self.is_writing = True
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._open()
        except OSError as error:
            raise JournalError(f"the journal directory {directory} cannot be used: {error}") from error

    def append(self, receipts: list[Receipt]) -> bool:
        """Append receipts with one write. False: they are not in the journal, so nothing of them may be answered."""
        packed = b"".join([receipt.encode() for receipt in receipts])
        try:
            if self._file is None or self._size + len(packed) > SEGMENT_BYTES or self.is_old:
                self._open()
            assert self._file is not None
            written = os.write(self._file, packed)
            self._size += written
            if written != len(packed):
                raise OSError("the record was cut")
        except OSError as error:
            if self.is_writing:
                log.error("cannot write the receipt journal; free or repair the disk", error=str(error))
            self.is_writing = False
            self.close()
            return False
        self.is_writing = True
        return True

    @property
    def is_old(self) -> bool:
        return self._size > 0 and time.monotonic() - self._opened_at > SEGMENT_S

    def _open(self) -> None:
        self.close()
        self._number += 1
        path = self._directory / f"{self._prefix}-{self._number:08d}.open"
        # Renamed to a segment only when it is locked: `delete_recorded` of another process removes an empty segment
        # without a writer.
        unnamed = path.with_suffix(".new")
        file = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            unnamed.rename(path)
        except BaseException:
            os.close(file)
            raise
        self._file, self._path = file, path
        self._size = 0
        self._opened_at = time.monotonic()

    def close(self) -> None:
        """Close the current segment, so that it can be deleted once it is recorded; delete it now if it is empty."""
        if self._file is None or self._path is None:
            return
        file, self._file = self._file, None
        try:
            # Still locked: a segment without a writer could be deleted before it is renamed.
            if self._size == 0:
                self._path.unlink(missing_ok=True)
            else:
                self._path.rename(self._path.with_suffix(".closed"))
        finally:
            os.close(file)

    def roll(self) -> None:
        """Close the current segment if it is old. Without this an idle process would keep it open."""
        if self._file is not None and self.is_old:
            self.close()


def host_name() -> str:
    """Return the name by which a recovery reports that the journal of this host was not replayed."""
    return os.environ.get("ISSUER_HOST_NAME") or socket.gethostname()


def segments(directory: Path) -> list[Path]:
    """Return all segments of all processes that have written here, closed or not."""
    return sorted(path for path in directory.glob("*") if path.suffix in (".open", ".closed"))


def _open_segment(path: Path) -> BinaryIO:
    """Open a segment. Its process may have closed (renamed) it since it was listed."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return path.with_suffix(".closed").open("rb")


def read_segment(path: Path) -> Iterator[Receipt]:
    """Yield the receipts of a segment up to the first that is cut or damaged."""
    with _open_segment(path) as file:
        while True:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return
            length, checksum = _HEAD.unpack(head)
            body = file.read(length) if length <= SEGMENT_BYTES else b""
            if len(body) != length or zlib.crc32(body) != checksum:
                log.warning("journal segment ends in a damaged record; ignoring the rest", segment=path.name)
                return
            yield Receipt.decode(body)


def read_columns(path: Path) -> Iterator[RedemptionColumns]:
    """Yield the receipts of a segment as columns for the ledger, in batches of BATCH_SIZE redemptions or few more."""
    columns = RedemptionColumns()
    for receipt in read_segment(path):
        receipt.add_to(columns)
        if len(columns) >= BATCH_SIZE:
            yield columns
            columns = RedemptionColumns()
    if columns:
        yield columns


def _has_writer(path: Path) -> bool:
    """Whether the process that writes a segment is alive: it holds a lock on the file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


_IN_LEDGER: Final = """
SELECT count(*) FROM unnest($1::bigint[], $2::bigint[]) AS e(pool_id, seq)
WHERE EXISTS (SELECT FROM ledger r WHERE r.pool_id = e.pool_id AND r.seq = e.seq)
   OR EXISTS (SELECT FROM dead_letters d WHERE d.pool_id = e.pool_id AND d.seq = e.seq)"""


async def delete_recorded(connection: AnyConnection, directory: Path) -> int:
    """Delete the segments without a writer whose redemptions are all recorded or dead letters. Return how many."""
    deleted = 0
    for path in segments(directory):
        if path.suffix != ".closed" and _has_writer(path):
            continue
        try:
            for columns in read_columns(path):
                if await connection.fetchval(_IN_LEDGER, columns.pool_ids, columns.seqs) < len(columns):
                    break
            else:
                path.unlink(missing_ok=True)
                deleted += 1
        except (FileNotFoundError, NewerEventError):
            continue
    return deleted
