"""What a backup passes to pg_dump, the settings that it repeats, and which backup is not restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from issuer.backups.backup import settings_text
from issuer.backups.directory import BackupError, Manifest, open_backup, write_checksums, write_private
from issuer.backups.programs import without_password
from issuer.settings import Auth, Settings


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        ("postgresql://u:p%2Fw@db:5432/x?sslmode=require", "postgresql://u@db:5432/x?sslmode=require", "p/w"),
        ("postgresql://u@/x?host=%2Frun%2Fa%20b", "postgresql://u@/x?host=%2Frun%2Fa%20b", None),
        ("postgresql://db/x?user=u&password=p%26w", "postgresql://db/x?user=u", "p&w"),
        ("postgresql://u:pw@a:1,b:2/x", "postgresql://u@a:1,b:2/x", "pw"),
    ],
)
def test_a_password_is_passed_in_the_environment(url: str, bare: str, password: str | None) -> None:
    assert without_password(url) == (bare, {} if password is None else {"PGPASSWORD": password})


def test_the_settings_are_those_that_were_given_without_addresses() -> None:
    settings = Settings(
        partitions=8, auth=Auth.OFF, default_client="band 'n' co", redis_url=SecretStr("redis://:pw@h/0"),
        secret_key=SecretStr("c2VjcmV0"),
    )  # fmt: skip
    text = settings_text(settings)
    assert "pw" not in text
    assert "c2VjcmV0" not in text
    assert text.splitlines()[1:2] == ["ISSUER_AUTH=off"]
    assert "ISSUER_PARTITIONS=8" in text
    assert "ISSUER_DEFAULT_CLIENT='band '\"'\"'n'\"'\"' co'" in text


MANIFEST = Manifest(UUID(int=1), 4, "2026-01-01T00:00:00Z", 0)


def written(path: Path, manifest: Manifest) -> Path:
    path.mkdir()
    write_private(path / "backup.json", manifest.to_json().encode())
    write_private(path / "postgres.dump", b"dump")
    write_checksums(path)
    return path


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "postgres.dump").write_bytes(b"dumb"), "not as they were written: postgres.dump"),
        (lambda path: (path / "postgres.dump").unlink(), "the files differ: postgres.dump"),
        (lambda path: (path / "more").touch(), "the files differ: more"),
        (lambda path: (path / "SHA256SUMS").unlink(), "not a complete backup"),
        (lambda path: (path / "SHA256SUMS").write_text("no sums"), "unreadable line"),
    ],
)
def test_a_damaged_backup_is_not_opened(tmp_path: Path, damage: Callable[[Path], object], reason: str) -> None:
    backup = written(tmp_path / "backup", MANIFEST)
    assert open_backup(backup).manifest == MANIFEST
    damage(backup)
    with pytest.raises(BackupError, match=reason):
        open_backup(backup)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (replace(MANIFEST, version="99.0.0"), "version 99.0.0 has made it"),
        (replace(MANIFEST, schema="9999"), "install that one"),
        (replace(MANIFEST, event_format=99), "install that one"),
        (replace(MANIFEST, format=2), "it has format 2, this version reads format 1"),
        (replace(MANIFEST, key_format=1), "it has key format 1"),
    ],
)
def test_a_backup_of_another_version_is_not_opened(tmp_path: Path, manifest: Manifest, reason: str) -> None:
    with pytest.raises(BackupError, match=reason):
        open_backup(written(tmp_path / "backup", manifest))
