"""The table of settings: it reports all invalid values at once and never prints a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from issuer.cli.settings_page import settings_page
from issuer.misspelt import unknown_variables
from issuer.settings import Settings, SettingsError, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ISSUER_{name.upper()}", raising=False)


def test_defaults_are_valid() -> None:
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.pool_low_water == settings.pool_high_water // 2


def test_an_option_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUER_PORT", "9000")
    assert load_settings(port=None).port == 9000
    assert load_settings(port=9001).port == 9001


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUER_REDIS_SERVER", "")
    monkeypatch.setenv("ISSUER_WORKERS", "")
    assert load_settings().redis_server is None


def test_all_problems_are_reported_at_once_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUER_REDIS_URL", "http://:topsecret@host")
    monkeypatch.setenv("ISSUER_DATABASE_URL", "mysql://user:topsecret@host/x")
    monkeypatch.setenv("ISSUER_PARTITIONS", "0")
    monkeypatch.setenv("ISSUER_AUTH", "maybe")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "ISSUER_REDIS_URL",
        "ISSUER_DATABASE_URL",
        "ISSUER_AUTH",
        "ISSUER_PARTITIONS",
    ]
    assert "topsecret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_an_unknown_variable_is_reported_with_the_nearest_setting() -> None:
    environment = {"ISSUER_MAX_BACKLOGG": "5", "ISSUER_COLOUR": "red", "ISSUER_PORT": "1", "issuer_auth": "on", "X": ""}
    assert unknown_variables(environment) == [
        "ISSUER_COLOUR is not a setting",
        "ISSUER_MAX_BACKLOGG is not a setting; ISSUER_MAX_BACKLOG is",
    ]


def test_a_repr_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUER_REDIS_URL", "redis://:topsecret@host/0")
    monkeypatch.setenv("ISSUER_DATABASE_URL", "postgresql://user:topsecret@host/x")
    settings = load_settings()
    assert "topsecret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_settings_page_is_up_to_date() -> None:
    assert PAGE.read_text() == settings_page(), "run `make docs`"
