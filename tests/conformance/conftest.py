"""The stores of the suite: fakeredis, and each server under the mark `servers`."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
import redis

from tests.support.databases import fresh_redis_url
from tests.support.isolation import nothing_started
from tests.support.partition import Partition
from tests.support.script_shop import stock
from tests.support.servers import RedisServer
from tests.support.stores import FAKEREDIS, SERVERS, FakeStore, ServerStore, Store


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a case on every store, or on the servers alone when it is marked so."""
    if "store" not in metafunc.fixturenames:
        return
    only_servers = metafunc.definition.get_closest_marker("servers_only") is not None
    stores = [pytest.param(name, marks=pytest.mark.servers) for name in SERVERS]
    metafunc.parametrize("store", stores if only_servers else [FAKEREDIS, *stores], indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Keep the cases on fakeredis inside the test process, like every unit test."""
    if item.get_closest_marker("servers"):
        return (yield)
    with nothing_started():
        return (yield)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty data set of the test's own."""
    if request.param == FAKEREDIS:
        yield FakeStore()
        return
    server = request.getfixturevalue(SERVERS[request.param])
    assert isinstance(server, RedisServer)
    database = int(fresh_redis_url(server).rpartition("/")[2])
    yield ServerStore(request.param, server, database)
    with server.client(database) as client:
        client.flushdb()


@pytest.fixture
def server_store(store: Store) -> ServerStore:
    """The store of a case that runs on servers only."""
    assert isinstance(store, ServerStore)
    return store


@pytest.fixture
def client(store: Store) -> Iterator[redis.Redis]:
    """A connection to the store."""
    with store.connect() as client:
        yield client


@pytest.fixture
def partition(client: redis.Redis) -> Partition:
    """A blessed partition without batches."""
    partition = Partition(client, 5)
    assert partition.bless() == ["DONE"]
    return partition


@pytest.fixture
def shop(partition: Partition) -> Partition:
    """A blessed partition with the batch and the pool of `tests.support.script_shop`."""
    stock(partition)
    return partition
