"""Error messages of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from issuer.cli.output import startup_hint


def test_without_servers_the_hint_names_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISSUER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("ISSUER_REDIS_URL", raising=False)
    monkeypatch.delenv("ISSUER_DATABASE_URL", raising=False)
    assert f"no `issuer up` of this user runs on {tmp_path / 'data'}" in startup_hint()
    monkeypatch.setenv("ISSUER_DATABASE_URL", "postgresql://127.0.0.1/issuer")
    assert startup_hint() == ""
