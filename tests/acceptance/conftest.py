"""The service that several modules share: to start six processes takes longer than most of their tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.databases import clone_database
from tests.support.servers import PostgresServer, RedisServer
from tests.support.service import Service, settings_of


@pytest.fixture(scope="package")
def service(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Four API processes and a worker, with the default settings. Each test has batches of its own.

    They report rarely: they live as long as the tests of this folder last, and have nothing to do most of the time.
    """
    settings = settings_of(redis_server, clone_database(postgres_server)).model_copy(update={"heartbeat_ms": 250})
    with Service(settings, tmp_path_factory.mktemp("service")) as started:
        yield started
