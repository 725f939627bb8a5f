"""A partition with one batch and one pool: where most cases of the conformance suite begin."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final
from uuid import UUID

from tests.support.partition import Partition
from tests.support.redeeming import ScriptCall, ScriptLimit, ScriptRequest

BATCH: Final = uuid.UUID(int=1)
CLIENT: Final = uuid.UUID(int=2)
OTHER_CLIENT: Final = uuid.UUID(int=3)
POOL_ID: Final = 77
MONTH_MS: Final = 30 * 86_400_000


def stock(partition: Partition) -> None:
    """Store a batch with a limit of 2 a month, and a pool of ten codes."""
    assert partition.put_batch(BATCH, [ScriptLimit(2, MONTH_MS)]) == ["DONE"]
    assert partition.open_pool(BATCH, CLIENT, POOL_ID, total=10) == ["DONE", "0", "0"]
    codes = [f"code-{seq}" for seq in range(1, 11)]
    assert partition.load(BATCH, CLIENT, 1, codes, total=10) == ["DONE", "10", "0", "0"]


def new_customer(key: str | None = None, client: UUID = CLIENT) -> ScriptRequest:
    """Return the request of a customer that no other request has."""
    return ScriptRequest(BATCH, client, uuid.uuid4(), key)


def call_of(partition: Partition, *requests: ScriptRequest) -> ScriptCall:
    """Return a call with these requests, which can be sent several times."""
    seconds, _ = partition.client.time()
    return ScriptCall(requests, seconds * 1000 + 4_000, partition.epoch)


def codes_of(partition: Partition) -> list[bytes]:
    """Return the list of the pool."""
    listed = partition.client.execute_command("LRANGE", partition.batch(BATCH).codes(CLIENT), 0, -1)
    assert isinstance(listed, list)
    return listed


def refuses_another_epoch(partition: Partition, act: Callable[[], list[str]]) -> None:
    """Check that the act, with another epoch, is refused and changes nothing."""
    before = partition.snapshot()
    partition.epoch += 1
    assert act() == ["STALE_EPOCH", str(partition.epoch - 1)]
    partition.epoch -= 1
    assert partition.snapshot() == before
