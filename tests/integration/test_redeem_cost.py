"""What one redemption costs Redis: the same commands with few or many codes, customers, redemptions and batches."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import pytest
import redis

from tests.support.databases import fresh_redis_url
from tests.support.redeeming import Partition, ScriptLimit, ScriptRequest, connect
from tests.support.servers import RedisServer

CLIENT: Final = UUID(int=2)
LIMITS: Final = (ScriptLimit(2, 3_600_000),)
FEW: Final = 10
MANY: Final = 3_000


@pytest.fixture
def client(any_redis_server: RedisServer) -> Iterator[redis.Redis]:
    database = int(fresh_redis_url(any_redis_server).rpartition("/")[2])
    with connect(host="127.0.0.1", port=any_redis_server.port, db=database) as client:
        yield client
        client.flushdb()


def add_batch(partition: Partition, batch: UUID, codes: int) -> None:
    assert partition.put_batch(batch, LIMITS) == ["DONE"]
    assert partition.open_pool(batch, CLIENT, batch.int, total=codes) == ["DONE", "0", "0"]
    stock = [f"code-{seq}" for seq in range(1, codes + 1)]
    assert partition.load(batch, CLIENT, 1, stock, total=codes) == ["DONE", str(codes), "0"]


def redeem(partition: Partition, batch: UUID, customers: int) -> None:
    requests = [ScriptRequest(batch, CLIENT, uuid.uuid4(), "key") for _ in range(customers)]
    for at in range(0, customers, 100):
        answers = partition.redeem_now(*requests[at : at + 100]).answers
        assert {answer.word for answer in answers} == {"GRANTED"}


def commands_of_one(client: redis.Redis, partition: Partition, batch: UUID) -> dict[str, int]:
    """How often Redis runs each command for one granted redemption with a limit and an Idempotency-Key."""
    client.execute_command("CONFIG RESETSTAT")
    (answer,) = partition.redeem_now(ScriptRequest(batch, CLIENT, uuid.uuid4(), "key")).answers
    assert answer.word == "GRANTED"
    stats: dict[str, Any] = client.info("commandstats")
    return {name: int(value["calls"]) for name, value in stats.items() if "config" not in name}


def test_the_commands_of_a_redemption_depend_neither_on_stock_nor_on_history(client: redis.Redis) -> None:
    partition = Partition(client, 5)
    assert partition.bless() == ["DONE"]
    small, large = UUID(int=11), UUID(int=12)
    add_batch(partition, small, FEW)
    redeem(partition, small, 1)  # the script is loaded from here on
    alone = commands_of_one(client, partition, small)
    assert alone["cmdstat_evalsha"] == 1
    assert alone["cmdstat_lpop"] == 1

    add_batch(partition, large, 2 * MANY)
    assert commands_of_one(client, partition, large) == alone, "with many codes"
    redeem(partition, large, MANY)
    assert commands_of_one(client, partition, large) == alone, "with many codes used and many customers"
    for number in range(100):
        add_batch(partition, UUID(int=1_000 + number), 1)
    assert commands_of_one(client, partition, large) == alone, "with many batches"
    assert commands_of_one(client, partition, small) == alone
