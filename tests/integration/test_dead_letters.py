"""Dead letters: listed, retried, resolved."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest_asyncio

from issuer.ledger.dead_letters import list_dead_letters, retry_dead_letters
from issuer.ledger.entries import StreamEntry, record_entries
from issuer.ledger.record import RecordResult
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.command import run_command
from tests.support.issuing import LedgerShop, open_shop, plain_client


@pytest_asyncio.fixture
async def shop(stores: Stores, settings: Settings) -> AsyncIterator[LedgerShop]:
    with plain_client(settings.redis_url.get_secret_value()) as client:
        yield await open_shop(stores, client, codes=(100,))


async def record_stream(shop: LedgerShop) -> RecordResult:
    """Record everything in the stream as the worker does, but acknowledge nothing."""
    entries = [
        StreamEntry(shop.number, stream_id.decode(), fields)
        for stream_id, fields in shop.client.execute_command("XRANGE", shop.keys.stream, "-", "+")
    ]
    async with shop.stores.postgres.acquire() as connection, connection.transaction():
        return await record_entries(connection, entries)


async def lose_code(shop: LedgerShop, seq: int) -> None:
    await shop.stores.postgres.execute("DELETE FROM codes WHERE pool_id = $1 AND seq = $2", shop.pool_id, seq)


async def bring_code_back(shop: LedgerShop, seq: int) -> None:
    await shop.stores.postgres.execute(
        "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
        " SELECT $1, $2, $3, client_id, $4 FROM pools WHERE id = $1",
        shop.pool_id, seq, shop.batch, f"{shop.pool_id}-{seq}-{shop.batch.hex[:6]}",
    )  # fmt: skip


async def test_one_redemption_of_an_entry_is_a_dead_letter_and_the_rest_recorded(shop: LedgerShop) -> None:
    await lose_code(shop, 2)
    shop.redeem(3)
    recorded = await record_stream(shop)
    assert (recorded.inserted, recorded.dead_letters) == (2, 1)
    (letter,) = await list_dead_letters(shop.stores.postgres)
    assert (letter.partition, letter.pool_id, letter.seq) == (shop.number, shop.pool_id, 2)
    assert letter.reason == "no such seq in the pool"
    assert letter.resolved_at is None


async def test_an_entry_delivered_twice_is_one_dead_letter(shop: LedgerShop) -> None:
    await lose_code(shop, 2)
    shop.redeem(3)
    shop.client.xadd(shop.keys.stream, {"x": "y"})
    for _ in range(3):
        await record_stream(shop)
    assert len(await list_dead_letters(shop.stores.postgres)) == 2
    assert await shop.stores.postgres.fetchval("SELECT count(*) FROM anomalies") == 1


async def test_retry_records_what_can_be_recorded_now(shop: LedgerShop) -> None:
    await lose_code(shop, 2)
    await lose_code(shop, 5)
    shop.redeem(3)
    shop.redeem(3)
    shop.client.xadd(shop.keys.stream, {"x": "y"})
    await record_stream(shop)
    await bring_code_back(shop, 2)
    retried = await retry_dead_letters(shop.stores.postgres, actor="test")
    assert retried.resolved == 1
    assert sorted(retried.reasons.values()) == ["KeyError: b'v'", "no such seq in the pool"]
    assert await shop.ledger_count() == 5
    assert len(await list_dead_letters(shop.stores.postgres)) == 2
    assert len(await list_dead_letters(shop.stores.postgres, resolved=True)) == 3
    await bring_code_back(shop, 5)
    assert (await retry_dead_letters(shop.stores.postgres, actor="test")).resolved == 1
    assert await shop.ledger_count() == 6


async def test_retry_of_one_leaves_the_others(shop: LedgerShop) -> None:
    for seq in (1, 2):
        await lose_code(shop, seq)
    shop.redeem(2)
    await record_stream(shop)
    for seq in (1, 2):
        await bring_code_back(shop, seq)
    _, second = await list_dead_letters(shop.stores.postgres)
    assert (await retry_dead_letters(shop.stores.postgres, only_id=second.id, actor="test")).resolved == 1
    assert [row["seq"] for row in await shop.stores.postgres.fetch("SELECT seq FROM redemptions")] == [2]


async def test_the_command(shop: LedgerShop, settings: Settings) -> None:
    await lose_code(shop, 1)
    shop.redeem(1)
    await record_stream(shop)
    status, output = await run_command(settings, "dead-letters", "list", "--json")
    assert status == 0, output
    (letter,) = orjson.loads(output)
    assert letter["seq"] == 1
    status, output = await run_command(settings, "dead-letters", "retry")
    assert (status, "0 resolved, 1 not resolved" in output) == (1, True)
    await bring_code_back(shop, 1)
    status, output = await run_command(settings, "dead-letters", "retry", str(letter["id"]))
    assert (status, "1 resolved, 0 not resolved" in output) == (0, True)
