"""Fixtures: real servers once a session, a database of its own in each of them for every test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import pytest_asyncio

from issuer.settings import Settings
from tests.support.databases import (
    MigratedDatabases,
    create_template,
    drop_database,
    empty_database,
    fresh_redis_url,
    settings_for,
)
from tests.support.plain_logs import plain_logs
from tests.support.programs import require
from tests.support.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from issuer.recovery.opening import GuardedStores

plain_logs()
# While editing a few examples suffice: each run draws others. CI draws more.
hypothesis.settings.register_profile("issuer", max_examples=100 if os.environ.get("CI") else 25)
hypothesis.settings.load_profile("issuer")

pytest_plugins = ("tests.support.distribution", "tests.support.garbage", "tests.support.skips")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The bundled Valkey. Shared by all tests: use a database number of your own, never FLUSHALL, never stop it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server_70(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The machine's Redis: Debian has 7.0, the oldest that the scripts must run on. Shared like `redis_server`."""
    program = require("redis-server")
    with RedisServer(tmp_path_factory.mktemp("redis70"), program=program) as server:
        yield server


@pytest.fixture(params=["valkey", "redis70"])
def any_redis_server(request: pytest.FixtureRequest) -> RedisServer:
    """Runs the test twice: on the bundled Valkey and on Redis 7.0."""
    server = request.getfixturevalue("redis_server" if request.param == "valkey" else "redis_server_70")
    assert isinstance(server, RedisServer)
    return server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL 18 without fsync. Shared by all tests: never stop it. Has a migrated database to clone."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        create_template(server)
        yield server


@pytest.fixture(scope="session")
def migrated_databases(postgres_server: PostgresServer) -> MigratedDatabases:
    """What `database_url` lends."""
    return MigratedDatabases(postgres_server)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """A Redis database of this test's own, emptied at its end."""
    url = fresh_redis_url(redis_server)
    yield url
    with redis_server.client(int(url.rpartition("/")[2])) as client:
        client.flushdb()


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A Postgres database without tables."""
    url = empty_database(postgres_server)
    yield url
    drop_database(postgres_server, url)


@pytest.fixture
def database_url(migrated_databases: MigratedDatabases) -> Iterator[str]:
    """A migrated, empty Postgres database, this test's own until it ends."""
    url = migrated_databases.lend()
    yield url
    migrated_databases.take_back(url)


@pytest.fixture
def settings(redis_url: str, database_url: str, tmp_path: Path) -> Settings:
    """Settings that point to this test's databases. Change some with `settings.model_copy(update={…})`."""
    return settings_for(redis_url, database_url, tmp_path)


@pytest_asyncio.fixture
async def stores(settings: Settings) -> AsyncIterator[GuardedStores]:
    """Blessed Redis and Postgres, as the CLI and the worker open them."""
    from issuer.recovery.opening import open_stores

    async with open_stores(settings) as opened:
        yield opened
