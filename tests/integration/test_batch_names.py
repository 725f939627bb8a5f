"""The names of batches in memory: what a name stands for, when that changes, and what unknown ones cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from issuer.batches.batch import BatchChanges, NewBatch
from issuer.batches.name_cache import BatchName, BatchNameCache
from issuer.batches.store import change_batch, create_batch
from issuer.campaigns.store import NewCampaign, create_campaign
from issuer.storage.look_ups import LookUps, LookUpsBusyError
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.stores import Stores

CLIENT = uuid4()


@pytest_asyncio.fixture
async def cache(stores: Stores) -> AsyncIterator[BatchNameCache]:
    """A cache that is not started: the tests refresh it."""
    names = BatchNameCache(stores.postgres)
    yield names
    await names.aclose()


async def look_up(cache: BatchNameCache, name: str, client: UUID = CLIENT) -> tuple[UUID, ...] | Exception | None:
    found: asyncio.Future[tuple[UUID, ...] | Exception | None] = asyncio.get_running_loop().create_future()
    cache.start_look_up((client.bytes, name), found.set_result)
    return await found


async def make(stores: Stores, name: str, **values: Any) -> UUID:
    return (await create_batch(stores, NewBatch(name, **values), client_id=CLIENT, actor="test")).id


async def change(stores: Stores, batch_id: UUID, **values: Any) -> None:
    await change_batch(stores, batch_id, BatchChanges(**values), actor="test")


async def test_a_name_stands_for_the_open_batch_or_else_for_the_newest(stores: Stores, cache: BatchNameCache) -> None:
    summer = (CLIENT.bytes, "Summer")
    assert await look_up(cache, "Summer") is None
    first = await make(stores, "Summer")
    cache._look_ups.forget()
    await make(stores, "Summer", ends_at=datetime(2020, 1, 1, tzinfo=UTC))
    await create_campaign(
        stores, NewCampaign("Summer", 1, datetime(2020, 1, 1, tzinfo=UTC), client_id=CLIENT), actor="test"
    )
    assert cache.find(summer) is None
    assert await look_up(cache, "Summer") == cache.find(summer) == (first,)
    assert await look_up(cache, "Summer", uuid4()) is None

    second = await make(stores, "Summer")
    await cache._refresh()
    assert set(cache.find(summer) or ()) == {first, second}
    await change(stores, first, expired=True)
    await cache._refresh()
    assert cache.find(summer) == (second,)
    # A replay of an Idempotency-Key finds the batch by its name after its end.
    await change(stores, second, expired=True)
    await cache._refresh()
    assert cache.find(summer) is not None
    third = await make(stores, "Autumn")
    assert await look_up(cache, "Autumn") == (third,)
    await change(stores, third, name="Winter")
    await cache._refresh()
    assert cache.find((CLIENT.bytes, "Autumn")) is None
    assert await look_up(cache, "Autumn") is None
    assert await look_up(cache, "Winter") == (third,)


async def test_a_name_keeps_its_meaning_while_postgres_is_unavailable(
    stores: Stores, cache: BatchNameCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, summer = await make(stores, "Summer"), (CLIENT.bytes, "Summer")
    await look_up(cache, "Summer")
    read = cache._read

    async def unavailable(names: Iterable[BatchName]) -> dict[BatchName, tuple[UUID, ...]]:
        raise PostgresUnavailableError("test")

    # A name that is no longer used is looked up again when it is.
    for _ in range(cache.MAX_IDLE):
        await cache._refresh()
    assert cache.find(summer) == (batch,)
    for _ in range(cache.MAX_IDLE + 1):
        await cache._refresh()
    assert cache.find(summer) is None
    monkeypatch.setattr(cache, "_read", unavailable)
    assert await look_up(cache, "Summer") == (batch,)
    assert isinstance(await look_up(cache, "Autumn"), PostgresUnavailableError)
    monkeypatch.setattr(cache, "_read", read)
    assert await look_up(cache, "Summer") == cache.find(summer) == (batch,)
    monkeypatch.setattr(cache, "_read", unavailable)
    with pytest.raises(PostgresUnavailableError):
        await cache._refresh()
    assert cache.find(summer) == (batch,)


async def test_look_ups_of_what_does_not_exist_are_bounded() -> None:
    asked: list[int] = []
    answered = asyncio.Event()

    async def query(key: int) -> str | None:
        asked.append(key)
        await answered.wait()
        return None

    look_ups: LookUps[int, str] = LookUps(query, "tests")
    waiting = [asyncio.create_task(look_ups.find(key)) for key in (1, 1, *range(2, look_ups.MAX_LOOK_UPS + 1))]
    await asyncio.sleep(0)
    with pytest.raises(LookUpsBusyError):
        await look_ups.find(0)
    assert len(asked) <= look_ups.MAX_CONCURRENT
    answered.set()
    assert set(await asyncio.gather(*waiting)) == {None}
    assert len(asked) == look_ups.MAX_LOOK_UPS
    assert await look_ups.find(1) is None
    assert len(asked) == look_ups.MAX_LOOK_UPS
    look_ups._missing = dict.fromkeys(range(look_ups.MAX_MISSING), 0.0)
    await look_ups.find(-1)
    assert len(look_ups._missing) == 1
    await look_ups.aclose()
