"""What a backup passes to pg_dump, and the settings that it repeats."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from issuer.backups.backup import settings_text, without_password
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
