"""Logs are machine-readable lines without secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from issuer.logs import configure_logs, masked
from tests.support.plain_logs import plain_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level
    plain_logs()


@pytest.mark.parametrize(
    "text",
    [
        "redis://:topsecret@10.0.0.1:6379/0",
        "cannot reach postgresql://issuer:topsecret@db/issuer?sslmode=require now",
        "key isk_topsecretAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA refused",
    ],
)
def test_secrets_in_texts_are_masked(text: str) -> None:
    assert "topsecret" in text
    assert "topsecret" not in masked(text)


def test_a_url_without_password_is_unchanged() -> None:
    assert masked("redis://10.0.0.1:6379/0 and user@host") == "redis://10.0.0.1:6379/0 and user@host"


def test_logs_are_json_lines_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", name="api", terminal=False)
    log = structlog.get_logger()
    log.debug("not seen")
    log.info("hello", url="redis://:topsecret@h/0", headers={"Authorization": "Bearer topsecret"}, ids=[1])
    logging.getLogger("library").warning("went to %s", "redis://:topsecret@h/0")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["hello", "went to redis://:**********@h/0"]
    assert lines[0]["process"] == "api"
    assert lines[0]["level"] == "info"
    assert lines[0]["ids"] == [1]
    assert "topsecret" not in json.dumps(lines)


def test_exceptions_are_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", terminal=False)
    try:
        raise ValueError("redis://:topsecret@h/0")
    except ValueError:
        structlog.get_logger().exception("failed")
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert "topsecret" not in text
