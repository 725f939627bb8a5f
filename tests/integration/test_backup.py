"""`issuer backup`: complete or not there, readable by its owner only, and what pg_restore makes of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from issuer.backups.directory import files_of
from issuer.embedded.binaries import postgres_binaries
from issuer.settings import Settings
from tests.support.command import CommandInProcess

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"


async def contents(url: str) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    connection = await asyncpg.connect(url)
    try:
        names = [row[0] for row in await connection.fetch(TABLES)]
        return {
            name: [row[0] for row in await connection.fetch(f"SELECT t::text FROM {name} t ORDER BY 1")]
            for name in names
        }
    finally:
        await connection.close()


@pytest.fixture
def issuer(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandInProcess:
    return CommandInProcess(settings, tmp_path, monkeypatch)


def test_a_backup_is_complete_private_and_restores_every_row(
    issuer: CommandInProcess, settings: Settings, empty_database_url: str
) -> None:
    assert issuer("clients", "create", "band-42", "--name", "Band 42").status == 0
    (issuer.directory / "codes.csv").write_text("client_id,code\nband-42,A-1\nband-42,A-2\n")
    assert issuer("preload", "codes.csv", "--batch-name", "Summer").status == 0
    made = issuer("backup", "backups", "--json").json
    backup = Path(made["path"])
    assert backup.parent == issuer.directory / "backups"
    names = {str(path.relative_to(backup)) for path in files_of(backup)}
    assert names == {
        "postgres.dump", "settings.env", "SHA256SUMS", "backup.json", "receipts/backlog/00000001.closed"
    }  # fmt: skip
    directories = (backup.parent, backup, *(path for path in backup.rglob("*") if path.is_dir()))
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files_of(backup)} == {0o600}
    assert made["size_bytes"] == sum(path.stat().st_size for path in files_of(backup))
    assert "ISSUER_PARTITIONS=4\n" in (backup / "settings.env").read_text()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=backup, check=True, capture_output=True)

    restore = f"{postgres_binaries()}/pg_restore --no-owner --no-privileges --exit-on-error".split()
    subprocess.run([*restore, f"--dbname={empty_database_url}", backup / "postgres.dump"], check=True)
    before = asyncio.run(contents(settings.database_url.get_secret_value()))
    assert asyncio.run(contents(empty_database_url)) == before
    assert len(before["codes"]) == 2


def test_the_newest_backups_are_kept_and_what_a_killed_one_left_is_removed(issuer: CommandInProcess) -> None:
    assert issuer("clients", "create", "band-42", "--name", "Band 42").status == 0
    directory = issuer.directory / "backups"
    for name in ("issuer-20200101T000000.000Z", "issuer-20990101T000000.000Z", "issuer-2020.incomplete", "mine"):
        (directory / name).mkdir(parents=True)
    first = issuer("backup", "backups", "--keep", "2", "--json").json
    # The clock may have been wrong once: the new one stays in any case.
    assert [Path(path).name for path in first["removed"]] == ["issuer-20200101T000000.000Z"]
    second = issuer("backup", "backups", "--keep", "1", "--json").json
    kept = {path.name for path in directory.iterdir()}
    assert kept == {"mine", Path(second["path"]).name}


def test_a_backup_that_fails_says_why_and_leaves_nothing(
    issuer: CommandInProcess, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = issuer.directory / "backups"
    gone = SecretStr("postgresql://issuer:s3cret@127.0.0.1:1/gone")
    lost = CommandInProcess(settings.model_copy(update={"database_url": gone}), issuer.directory, monkeypatch)
    failed = lost("backup", "backups")
    assert failed.status == 1
    assert "error: Postgres is unavailable" in failed.err
    assert "s3cret" not in failed.err
    assert list(directory.iterdir()) == []
    held = os.open(directory, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert "another backup is being written" in issuer("backup", "backups").err
    os.close(held)
    (issuer.directory / "file").touch()
    assert issuer("backup", "file").err == f"error: cannot write to {issuer.directory / 'file'}: File exists\n"
