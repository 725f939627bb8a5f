"""The HTTP application, and a Redis server of the test's own, which it may stop, wipe and replace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from pydantic import SecretStr

from issuer.settings import Settings
from tests.support.databases import MigratedDatabases, fresh_redis_url, settings_for
from tests.support.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from tests.support.api import Api
    from tests.support.coupons import Till


def shares_app(item: pytest.Item) -> bool:
    """Return whether a test uses the application of its module."""
    uses = {"api", "till"} & set(getattr(item, "fixturenames", ()))
    return bool(uses) and "shared_app" in item.keywords and "own_app" not in item.keywords


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that share the application of their module in the event loop of the module."""
    for item in items:
        if isinstance(item, pytest.Function) and iscoroutinefunction(item.obj) and shares_app(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)


@pytest.fixture
def api(request: pytest.FixtureRequest) -> Api:
    """The application in this process: that of the module for tests marked `shared_app`, else one of the test's own."""
    found: Api = request.getfixturevalue("shared_api" if shares_app(request.node) else "own_api")
    return found


@pytest_asyncio.fixture
async def own_api(settings: Settings) -> AsyncIterator[Api]:
    """An application with the `settings` of the module."""
    from tests.support.api import running_app

    async with running_app(settings) as running:
        yield running


@pytest.fixture(scope="module")
def shared_settings(
    redis_server: RedisServer, migrated_databases: MigratedDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings that point to databases of the module's own."""
    database_url = migrated_databases.lend()
    yield settings_for(fresh_redis_url(redis_server), database_url, tmp_path_factory.mktemp("shared"))
    migrated_databases.take_back(database_url)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api(shared_settings: Settings) -> AsyncIterator[Api]:
    """One application for several tests of a module: to start one takes as long as twenty requests.

    For tests that touch only what they create.
    """
    from tests.support.api import running_app

    async with running_app(shared_settings) as running:
        yield running


@pytest.fixture
def till(request: pytest.FixtureRequest) -> Till:
    """Coupons of a client of this test's own, on `api`."""
    found: Till = request.getfixturevalue("shared_till" if shares_app(request.node) else "own_till")
    return found


@pytest_asyncio.fixture
async def own_till(own_api: Api) -> Till:
    from tests.support.coupons import Till

    return await Till.of(own_api)


@pytest_asyncio.fixture(loop_scope="module")
async def shared_till(shared_api: Api) -> Till:
    from tests.support.coupons import Till

    return await Till.of(shared_api)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path / "postgres", durable=False) as server:
        yield server


@pytest.fixture
def own_settings(settings: Settings, own_redis: RedisServer) -> Settings:
    """`settings` on that server, without journals, with so small a backlog that quarantined codes can be counted."""
    own = {"redis_url": SecretStr(own_redis.url()), "max_backlog": 50, "journal": "off"}
    return settings.model_copy(update=own)


@pytest.fixture
def journal_settings(own_settings: Settings) -> Settings:
    """`own_settings` with receipt journals, as they are by default: a lost Redis costs nothing."""
    return own_settings.model_copy(update={"journal": "on"})
