"""URLs with passwords of any characters: read when they are percent-encoded, refused without a trace otherwise."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest

from issuer.logs import masked
from issuer.settings import SettingsError, load_settings

SECRETS = (
    "top/Secret9",  # slash
    "top@Secret9",  # at
    "top%Secret9",  # percent
    "top?Secret9",  # question mark
    "top#Secret9",  # number sign
    "top:Secret9",  # colon
    "top Secret9",  # space
    "top[Secret9]",  # brackets
    "top[Secret9",  # bracket
    "top\\Secret9",  # backslash
    "top\"'Secret9",  # quotes
    "töpSecret9",  # umlaut
    "top／Secret9",  # full-width slash
    "top℀Secret9",  # account of
    "top\nSecret9",  # line feed
    "1/Secret9",  # like a port
    "a@b:1/Secret9",  # like a host
    "/?#[]@!$&'()*+,;=% \\^`{|}Secret9",  # all
    "top%2FSecret9",  # escaped
)
TEMPLATES = {
    "redis_url": ("redis://:{}@127.0.0.1:6379/0", "rediss://user:{}@h:6379", "sentinel://:{}@a:1,b:2/main/0"),
    "database_url": ("postgresql://issuer:{}@127.0.0.1:5432/issuer?sslmode=disable", "postgresql://u:{}@a:1,b:2/db"),
}
URLS = [(setting, template) for setting, templates in TEMPLATES.items() for template in templates]


@pytest.mark.parametrize(("setting", "template"), URLS)
def test_an_encoded_password_is_read(setting: str, template: str) -> None:
    for secret in SECRETS:
        url = template.format(quote(secret, safe=""))
        settings = load_settings(**{setting: url})
        assert getattr(settings, setting).get_secret_value() == url
        assert unquote(urlsplit(url).password or "") == secret
        assert "Secret9" not in repr(settings)
        assert "Secret9" not in masked(f"cannot connect to {url}, giving up")


def refusal_of(setting: str, url: str) -> SettingsError | None:
    try:
        load_settings(**{setting: url})
    except SettingsError as error:
        return error
    return None


@pytest.mark.parametrize(("setting", "template"), URLS)
def test_a_password_that_is_not_encoded_is_shown_nowhere(setting: str, template: str) -> None:
    """It is read as it is meant, or refused by a message without it. What a driver would raise has parts of it."""
    for secret in SECRETS:
        url = template.format(secret)
        refusal = refusal_of(setting, url)
        if refusal is not None:
            assert "Secret9" not in str(refusal)
            assert "percent-encoding" in str(refusal)
            assert refusal.__cause__ is None
            assert refusal.__suppress_context__
        else:
            parts = urlsplit(url)
            assert parts.password == secret
            assert "Secret9" not in (parts.hostname or "") + parts.path + parts.query
        if not any(character.isspace() for character in secret):
            assert "Secret9" not in masked(f"cannot connect to {url}, giving up")


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://[::1]:6379/0",
        "unix:///run/redis.sock?db=1",
        "unix://:x@/run/redis.sock",
        "sentinel://a,b:26379/main/0",
        "redis://user@h:6379",
    ],
)
def test_other_urls_are_read(url: str) -> None:
    assert load_settings(redis_url=url).redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    ["postgresql:///issuer?host=/run/postgresql", "postgresql://%2Frun%2Fpostgresql/issuer", "postgres://a:1,b:2/i"],
)
def test_other_urls_of_postgres_are_read(url: str) -> None:
    assert load_settings(database_url=url).database_url.get_secret_value() == url


@pytest.mark.parametrize(
    "url", ["redis://h:x/0", "redis://h:70000/0", "redis://h:1:2", "http://h", "redis:h", "redis://[::1"]
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="ISSUER_REDIS_URL"):
        load_settings(redis_url=url)


def test_secrets_in_a_query_are_masked() -> None:
    text = "postgresql://h/db?user=a&password=topsecret&sslpassword=topsecret&sslmode=require"
    assert masked(text) == "postgresql://h/db?user=a&password=**********&sslpassword=**********&sslmode=require"
