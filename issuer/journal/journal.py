"""The receipt journal of one process: a directory of its own with an id, a lock, a head and segments.

``<directory>/<id>/lock`` is locked while the process lives. ``head`` states whose journal it is and in which boot of
the host it is written; it is on the disk before the first receipt. Receipts are appended before the answers go out, and
are in the kernel's page cache then: they survive the process, but not a power cut. The files of another boot may
therefore lack their end.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import orjson
import structlog

from issuer.journal.segments import SEGMENT_BYTES, SEGMENT_S, Receipt, segments

log = structlog.get_logger()

TOKEN_AGE_S: Final = 80 * 86_400.0
"""Postgres forgets a token after 90 days (`issuer.storage.lineage`), so of one as old as this it has nothing to say."""
MAX_BYTES: Final = 4 * 1024**3
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class JournalError(Exception):
    """The journal cannot be written: the directory is unusable, the disk is full, or its bound is reached."""


@dataclass(frozen=True, slots=True)
class JournalHead:
    """What a journal states about itself.

    `token`: of the commit that registered its process, or that found in the ledger what was deleted here.
    """

    id: UUID
    installation: UUID
    process: str
    host: str
    boot_id: str
    token: str | None = None

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> JournalHead:
        """Raises ValueError when the text is not that of a head."""
        fields = orjson.loads(text)
        try:
            ids = UUID(fields["id"]), UUID(fields["installation"])
            return cls(*ids, fields["process"], fields["host"], fields["boot_id"], fields["token"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it has other fields") from error


def read_token(directory: Path, installation: UUID) -> str:
    """Return the last token that a directory of journals keeps of an installation; empty: none."""
    path = directory / f"{installation}.lineage"
    try:
        return UUID(hex=path.read_text()).hex if _is_recent(path) else ""
    except (OSError, ValueError):
        return ""


def _is_recent(path: Path) -> bool:
    return path.stat().st_mtime > time.time() - TOKEN_AGE_S


def keep_token(directory: Path, installation: UUID, token: UUID) -> bool:
    """Keep a token beside the journals, on the disk when this returns; False: it cannot be written.

    A journal is removed only behind this: a Postgres that loses what was recorded from it does not know the token.
    """
    try:
        _store(directory / f"{installation}.lineage", token.hex.encode())
    except OSError as error:
        log.error("receipt journals are kept because their disk cannot be written", error=str(error))
        return False
    return True


def find_tokens(directory: Path, installation: UUID) -> list[UUID]:
    """Return the tokens that the journals of an installation and their directory keep."""
    texts: list[str | None] = [read_token(directory, installation)]
    for path in directory.glob("*/head"):
        with suppress(OSError, ValueError):
            head = JournalHead.from_json(path.read_bytes())
            if head.installation == installation and _is_recent(path):
                texts.append(head.token)
    return [UUID(hex=text) for text in texts if text]


def host_name() -> str:
    """Return the name by which an operator finds the host of a journal: the setting, or that of the system."""
    return os.environ.get("ISSUER_HOST_NAME") or socket.gethostname()


def process_name() -> str:
    """Return the name of this process in reports."""
    return f"{host_name()}-{os.getpid()}"


def boot_id() -> str:
    """Return the id of this boot of the host; where the system has none, the id of no boot."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Journal:
    """The writer of the journal of this process. `id`: its name in Postgres, which no other journal ever has.

    `max_bytes` bounds its segments together; deleted ones do not count.
    """

    def __init__(self, directory: Path, installation: UUID, *, max_bytes: int = MAX_BYTES) -> None:
        self.id = uuid4()
        self.directory = directory / str(self.id)
        self._head = JournalHead(self.id, installation, process_name(), host_name(), boot_id())
        self._max_bytes = max_bytes
        self.is_closed = False
        self._number = 0
        self._file: int | None = None
        self._path: Path | None = None
        self._size = 0
        self._opened_at = 0.0
        try:
            self._lock = self._create()
            self._open()
        except OSError as error:
            raise JournalError(f"the journal directory {directory} cannot be used: {error}") from error

    def _create(self) -> int:
        # Under other names until it is locked and complete: an unlocked journal is that of a dead process.
        unnamed = self.directory.with_suffix(".new")
        unnamed.mkdir(parents=True, mode=0o700)
        lock = os.open(unnamed / "lock.new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (unnamed / "lock.new").rename(unnamed / "lock")
            _store(unnamed / "head", self._head.to_json())
            unnamed.rename(self.directory)
            _sync(self.directory.parent)
        except BaseException:
            os.close(lock)
            shutil.rmtree(unnamed, ignore_errors=True)
            raise
        return lock

    def note_token(self, token: UUID) -> None:
        """Store the token of a commit in the head, on the disk when this returns. Raises JournalError."""
        self._head = replace(self._head, token=token.hex)
        try:
            _store(self.directory / "head", self._head.to_json())
        except OSError as error:
            raise JournalError(f"the head of the journal cannot be written: {error}") from error

    def append(self, receipts: Sequence[Receipt]) -> None:
        """Append receipts with one write. Raises JournalError: none of them may be answered then."""
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
            raise JournalError(f"receipts cannot be appended: {error}") from error

    @property
    def is_old(self) -> bool:
        return self._size > 0 and time.monotonic() - self._opened_at > SEGMENT_S

    def _open(self) -> None:
        self.close_segment()
        kept = sum(path.stat().st_size for path in segments(self.directory))
        if kept + SEGMENT_BYTES > self._max_bytes:
            raise JournalError(f"its segments have reached {kept} bytes, and its bound is {self._max_bytes}")
        self._number += 1
        path = self.directory / f"{self._number:08d}.open"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path, self._size, self._opened_at = path, 0, time.monotonic()

    def close_segment(self) -> None:
        """Close the current segment, so that it can be deleted once it is recorded; delete it now if it is empty."""
        if self._file is None or self._path is None:
            return
        file, self._file = self._file, None
        os.close(file)
        if self._size == 0:
            self._path.unlink(missing_ok=True)
        else:
            self._path.rename(self._path.with_suffix(".closed"))

    def roll(self) -> None:
        """Close the current segment if it is old. Without this an idle process would keep it open."""
        if self._file is not None and self.is_old:
            self.close_segment()

    def close(self) -> None:
        """Close the journal. From here on it is that of a dead process, which any other process of the host settles."""
        if self.is_closed:
            return
        self.is_closed = True
        with suppress(OSError):
            self.close_segment()
        os.close(self._lock)

    def remove(self) -> None:
        """Close and delete the journal: everything in it is in the ledger, and its registrations are settled."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.close()


def _store(path: Path, content: bytes) -> None:
    """Replace a file, on the disk when this returns. Processes and threads may do so at once: the last one counts."""
    # Each has a file of its own: one that is shared would be renamed while another one still writes it.
    new = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, content)
            os.fsync(file)
        finally:
            os.close(file)
        new.rename(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
