"""A Redis server of the test's own, which it may stop, wipe and replace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from issuer.settings import Settings
from tests.support.servers import RedisServer


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def own_settings(settings: Settings, own_redis: RedisServer) -> Settings:
    """`settings` on that server, with so small a backlog that what is quarantined can be counted."""
    return settings.model_copy(update={"redis_url": SecretStr(own_redis.url()), "max_backlog": 50})
