"""Databases of a test's own on the servers that all tests of a process share."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from pydantic import SecretStr

from issuer.settings import Settings
from tests.support.servers import PostgresServer, RedisServer

TEMPLATE: Final = "issuer_template"
REDIS_DATABASES: Final = 4096
_numbers = itertools.count(1)


def create_template(server: PostgresServer) -> None:
    """Create the migrated, empty database that `clone_database` copies."""
    from issuer.storage.migrate import migrate

    server.psql(f"CREATE DATABASE {TEMPLATE}")
    asyncio.run(migrate(Settings(database_url=SecretStr(server.url(TEMPLATE)))))


def clone_database(server: PostgresServer) -> str:
    """Return the URL of a new, migrated, empty database."""
    name = f"test_{next(_numbers)}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    return server.url(name)


def empty_database(server: PostgresServer) -> str:
    """Return the URL of a new database without tables."""
    name = f"empty_{next(_numbers)}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    return server.url(name)


def drop_database(server: PostgresServer, url: str) -> None:
    """Drop a database and close the connections to it."""
    server.psql(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


def fresh_redis_url(server: RedisServer) -> str:
    """Return the URL of a database number that no test of this process has used."""
    return server.url(next(_numbers) % REDIS_DATABASES)
