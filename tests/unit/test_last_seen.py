"""What a process has read is shown while Postgres is unavailable, with its time."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

import pytest

from issuer.http.console.incidents import last_seen
from issuer.http.console.incidents.last_seen import MAX_AGE_S, MAX_KEPT, read_or_recall
from issuer.storage.postgres import PostgresUnavailableError


class PoolKey:
    """Stands for a pool, which is only a key here."""


async def down() -> str:
    raise PostgresUnavailableError("down")


async def test_what_was_read_is_recalled_for_an_hour() -> None:
    postgres: Any = PoolKey()

    async def read() -> str:
        return "three codes"

    with pytest.raises(PostgresUnavailableError):
        await read_or_recall(postgres, "page", down)
    assert await read_or_recall(postgres, "page", read) == last_seen.Seen("three codes")
    recalled = await read_or_recall(postgres, "page", down)
    assert (recalled.value, recalled.as_of is None) == ("three codes", False)
    others: list[tuple[Any, str]] = [(postgres, "other page"), (PoolKey(), "page")]
    for other, name in others:
        with pytest.raises(PostgresUnavailableError):
            await read_or_recall(other, name, down)
    now = time.monotonic()
    with (
        patch("time.monotonic", lambda: now + MAX_AGE_S + 1),
        pytest.raises(PostgresUnavailableError),
    ):
        await read_or_recall(postgres, "page", down)


async def test_the_pages_that_are_kept_are_bounded() -> None:
    postgres: Any = PoolKey()

    async def read() -> str:
        return "a page"

    for number in range(MAX_KEPT + 5):
        await read_or_recall(postgres, f"page {number}", read)
    with pytest.raises(PostgresUnavailableError):
        await read_or_recall(postgres, "page 0", down)
    assert (await read_or_recall(postgres, f"page {MAX_KEPT}", down)).value == "a page"
