"""The stores on which Lua scripts run in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import fakeredis
import redis

from tests.support.partition import connect
from tests.support.servers import RedisServer

FAKEREDIS: Final = "fakeredis"
SERVERS: Final[Mapping[str, str]] = {"valkey": "redis_server", "redis70": "redis_server_70"}
"""The stores that are servers, each with the fixture that starts it."""


@dataclass(slots=True)
class FakeStore:
    """fakeredis: the data set and the Lua interpreter are inside this process."""

    name: str = FAKEREDIS
    data: fakeredis.FakeServer = field(default_factory=fakeredis.FakeServer)

    def connect(self) -> redis.Redis:
        return fakeredis.FakeRedis(server=self.data, protocol=2)


@dataclass(frozen=True, slots=True)
class ServerStore:
    """One database of a started server."""

    name: str
    server: RedisServer
    database: int = 0

    def connect(self) -> redis.Redis:
        return connect(host="127.0.0.1", port=self.server.port, db=self.database)

    def another(self, directory: Path, options: Mapping[str, str] | None = None) -> RedisServer:
        """Return a server of the same program, not yet started, for a case that changes or stops it."""
        return RedisServer(directory, program=self.server.program, options=dict(options or {}))


Store = FakeStore | ServerStore
