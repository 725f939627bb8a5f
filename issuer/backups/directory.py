"""The directory of one backup: its files, their checksums, and what it states about itself."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

import orjson

from issuer import __version__
from issuer.contract.events import EVENT_FORMAT
from issuer.contract.keys import KEY_FORMAT
from issuer.storage.migrate import SCHEMA_REVISION

FORMAT: Final = 1
DUMP: Final = "postgres.dump"
SETTINGS: Final = "settings.env"
MANIFEST: Final = "backup.json"
CHECKSUMS: Final = "SHA256SUMS"
RECEIPTS: Final = "receipts"
"""What was answered and may not be in the dump: a directory for each journal, and one for the backlog of Redis."""
SECRET_KEY: Final = "secret-key"
API_KEY: Final = "api-key"


class BackupError(Exception):
    """A backup was not made, or is not usable. The message says why; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup states about itself. `backlog`: redemptions copied from Redis; None: it could not be read."""

    installation: UUID
    partitions: int
    created_at: str
    backlog: int | None
    format: int = FORMAT
    version: str = __version__
    schema: str = SCHEMA_REVISION
    key_format: int = KEY_FORMAT
    event_format: int = EVENT_FORMAT

    def to_json(self) -> str:
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2).decode() + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises BackupError when a later version of this program has written it, or it has another format."""
        try:
            fields = orjson.loads(text)
            if fields["format"] != FORMAT:
                raise BackupError(f"it has format {fields['format']}, this version reads format {FORMAT}")
            manifest = cls(**fields | {"installation": UUID(fields["installation"])})
            newer = _numbers(manifest.version) > _numbers(__version__)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"{MANIFEST} cannot be read: {error}") from error
        if newer or manifest.schema > SCHEMA_REVISION or manifest.event_format > EVENT_FORMAT:
            raise BackupError(f"version {manifest.version} has made it, and this is {__version__}: install that one")
        if manifest.key_format != KEY_FORMAT:
            raise BackupError(f"it has key format {manifest.key_format}, this version needs {KEY_FORMAT}")
        return manifest


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


@dataclass(frozen=True, slots=True)
class BackupDirectory:
    """A complete backup. `mark` distinguishes it from every other one."""

    path: Path
    manifest: Manifest
    mark: str

    @property
    def dump(self) -> Path:
        return self.path / DUMP

    @property
    def receipts(self) -> list[Path]:
        return sorted(path for path in self.path.glob(f"{RECEIPTS}/*") if path.is_dir())

    def secrets(self) -> dict[str, str]:
        """Return the secrets by the names of their files in the data directory of `issuer up`."""
        paths = (self.path / name for name in (SECRET_KEY, API_KEY))
        return {path.name: path.read_text() for path in paths if path.exists()}


def open_backup(path: Path) -> BackupDirectory:
    """Return a backup whose files are those that were written, and of a version that this one can restore.

    Raises BackupError.
    """
    try:
        sums = (path / CHECKSUMS).read_bytes()
        expected = dict(_read_sums(sums.decode()))
        found = {str(file.relative_to(path)) for file in files_of(path)} - {CHECKSUMS}
        if wrong := sorted(found ^ expected.keys()):
            raise BackupError(f"{path}: {CHECKSUMS} and the files differ: {', '.join(wrong)}")
        if changed := [name for name in sorted(expected) if sha256_of(path / name) != expected[name]]:
            raise BackupError(f"{path}: not as they were written: {', '.join(changed)}")
        if MANIFEST not in expected or DUMP not in expected:
            raise BackupError(f"{path} has no {MANIFEST} or no {DUMP}: it is not a backup that this version restores")
        manifest = Manifest.from_json((path / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise BackupError(f"{path} is not a complete backup: {error}") from error
    return BackupDirectory(path, manifest, hashlib.sha256(sums).hexdigest())


def _read_sums(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator:
            raise ValueError(f"{CHECKSUMS} has an unreadable line")
        yield name, digest


def files_of(path: Path) -> list[Path]:
    """Return all files of a backup."""
    return sorted(file for file in path.rglob("*") if not file.is_dir())


def write_checksums(path: Path) -> None:
    """Write the checksums of all files, and bring all of it to the disk."""
    lines = [f"{sha256_of(file)}  {file.relative_to(path)}\n" for file in files_of(path)]
    write_private(path / CHECKSUMS, "".join(lines).encode())
    for part in (*path.rglob("*"), path):
        flush(part)


def create_private(path: Path) -> BinaryIO:
    """Create a file of mode 0600 and return it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600."""
    with create_private(path) as file:
        file.write(content)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Bring a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
