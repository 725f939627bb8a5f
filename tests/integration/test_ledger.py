"""Redemptions are recorded once, compared with the ledger, and never dropped."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
import pytest_asyncio

from issuer.contract.events import Redemption
from issuer.ledger.record import RecordResult
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.issuing import LedgerShop, open_shop, plain_client
from tests.support.recording import record_in_ledger


@pytest_asyncio.fixture
async def shop(stores: Stores, settings: Settings) -> AsyncIterator[LedgerShop]:
    with plain_client(settings.redis_url.get_secret_value()) as client:
        yield await open_shop(stores, client, codes=(100, 50))


async def anomalies(shop: LedgerShop) -> list[tuple[str, int | None, dict[str, Any]]]:
    rows = await shop.stores.postgres.fetch("SELECT kind, seq, detail FROM anomalies ORDER BY id")
    return [(row["kind"], row["seq"], orjson.loads(row["detail"])) for row in rows]


def issue(shop: LedgerShop, count: int) -> list[Redemption]:
    shop.redeem(count)
    return list(shop.columns().redemptions())


async def test_records_every_field_of_an_event(shop: LedgerShop) -> None:
    customer = uuid.uuid4()
    shop.redeem(1, customer=customer, key="order-1")
    (event,) = shop.columns().redemptions()
    assert await record_in_ledger(shop, [event]) == RecordResult(inserted=1)
    row = await shop.stores.postgres.fetchrow("SELECT * FROM redemptions")
    assert row is not None
    assert (row["pool_id"], row["seq"], row["batch_id"], row["code"]) == (shop.pool_id, 1, shop.batch, event.code)
    assert (row["customer_id"], row["call_id"]) == (customer, event.call_id)
    assert (row["key_hash"], row["api_key_id"], row["epoch"]) == (event.key_hash, 7, shop.stores.redis.epoch)
    assert row["redeemed_at"].timestamp() * 1000 == pytest.approx(event.redeemed_at_ms, abs=0.01)


async def test_repeated_events_change_nothing(shop: LedgerShop) -> None:
    events = issue(shop, 10)
    assert (await record_in_ledger(shop, events[:6])).inserted == 6
    again = await record_in_ledger(shop, events)
    assert (again.inserted, again.duplicates, again.anomalies, again.rejected) == (4, 6, 0, [])
    twice_in_one_call = await record_in_ledger(shop, events + events)
    assert (twice_in_one_call.inserted, twice_in_one_call.duplicates) == (0, 20)
    assert await anomalies(shop) == []


async def test_an_event_twice_in_one_call_is_a_duplicate(shop: LedgerShop) -> None:
    events = issue(shop, 3)
    recorded = await record_in_ledger(shop, events + events)
    assert (recorded.inserted, recorded.duplicates, recorded.anomalies) == (3, 3, 0)


async def test_the_first_of_two_events_with_one_seq_counts(shop: LedgerShop) -> None:
    """Receipts of a grant and of its replays may be recorded together; only the grant names the key that it was for."""
    granted = issue(shop, 100)
    replays = [replace(event, api_key_id=8) for event in reversed(granted)]
    assert (await record_in_ledger(shop, granted + replays)).duplicates == 100
    rows = await shop.stores.postgres.fetch("SELECT DISTINCT api_key_id FROM redemptions")
    assert [row["api_key_id"] for row in rows] == [7]


@pytest.mark.parametrize("field", ["customer_id", "call_id", "redeemed_at_ms"])
async def test_other_content_of_a_seq_is_an_anomaly(shop: LedgerShop, field: str) -> None:
    first, other = issue(shop, 2)
    await record_in_ledger(shop, [first, other])
    lie: Any = first.redeemed_at_ms + 1 if field == "redeemed_at_ms" else uuid.uuid4()
    recorded = await record_in_ledger(shop, [replace(first, **{field: lie}), other])
    assert (recorded.inserted, recorded.duplicates, recorded.contradicted, recorded.anomalies) == (0, 1, 1, 1)
    ((kind, seq, detail),) = await anomalies(shop)
    assert (kind, seq) == ("other_redemption_in_ledger", 1)
    assert detail["event"][field] == (lie if isinstance(lie, int) else str(lie))
    assert detail["stored"]["code"] == first.code
    await record_in_ledger(shop, [replace(first, **{field: lie})])
    assert len(await anomalies(shop)) == 1, "an event delivered twice is not a second anomaly"


async def test_an_erased_customer_is_no_difference(shop: LedgerShop) -> None:
    events = issue(shop, 2)
    await record_in_ledger(shop, events)
    await shop.stores.postgres.execute("UPDATE redemptions SET customer_id = NULL WHERE seq = 1")
    recorded = await record_in_ledger(shop, events)
    assert (recorded.duplicates, recorded.anomalies) == (2, 0)


async def test_a_code_that_is_not_the_seqs_is_rejected_and_an_anomaly(shop: LedgerShop) -> None:
    first, second, third = issue(shop, 3)
    recorded = await record_in_ledger(shop, [first, replace(second, code="forged"), third])
    assert recorded.inserted == 2
    assert [rejected.index for rejected in recorded.rejected] == [1]
    ((kind, seq, detail),) = await anomalies(shop)
    assert (kind, seq, detail["stored"]) == ("wrong_code", 2, {"code": second.code})


async def test_unknown_pools_and_seqs_are_rejected(shop: LedgerShop) -> None:
    first, second, third = issue(shop, 3)
    recorded = await record_in_ledger(shop, [replace(first, pool_id=999_999), replace(second, seq=5_000), third])
    assert recorded.inserted == 1
    assert {rejected.index: rejected.reason for rejected in recorded.rejected} == {
        0: "unknown pool",
        1: "no such seq in the pool",
    }
    assert [(kind, seq) for kind, seq, _ in await anomalies(shop)] == [("unknown_seq", 5_000)]


async def test_what_postgres_refuses_is_rejected_and_the_rest_recorded(shop: LedgerShop) -> None:
    events = issue(shop, 40)
    poison = {
        3: replace(events[3], code="a\0b"),
        17: replace(events[17], pool_id=2**63),
        18: replace(events[18], redeemed_at_ms=2**62),
        39: replace(events[39], api_key_id=2**31),
    }
    recorded = await record_in_ledger(shop, [poison.get(place, event) for place, event in enumerate(events)])
    assert recorded.inserted == 36
    assert sorted(rejected.index for rejected in recorded.rejected) == sorted(poison)
    assert await shop.ledger_count() == 36


async def test_a_code_redeemed_under_two_seqs_is_an_anomaly_and_blocks_no_other(shop: LedgerShop) -> None:
    events = issue(shop, 8)
    await record_in_ledger(shop, events[:1])
    # The first code gets a second seq, which only a manual change of the tables can do.
    async with shop.stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("DELETE FROM codes WHERE pool_id = $1 AND seq IN (1, 5)", shop.pool_id)
        await connection.execute(
            "INSERT INTO codes (pool_id, seq, batch_id, client_id, code)"
            " SELECT $1, 5, $2, client_id, $3 FROM pools WHERE id = $1",
            shop.pool_id, shop.batch, events[0].code,
        )  # fmt: skip
    recorded = await record_in_ledger(shop, [*events[1:4], replace(events[4], code=events[0].code), *events[5:]])
    assert (recorded.inserted, recorded.anomalies, [r.index for r in recorded.rejected]) == (6, 1, [3])
    assert [(kind, seq) for kind, seq, _ in await anomalies(shop)] == [("code_redeemed_twice", 5)]


async def test_a_late_event_of_a_quarantined_seq_moves_into_the_ledger(shop: LedgerShop) -> None:
    events = issue(shop, 5)
    await shop.stores.postgres.execute(
        "INSERT INTO quarantined (pool_id, seq, epoch) SELECT $1, generate_series(2, 4), 1", shop.pool_id
    )
    assert (await record_in_ledger(shop, events[:3])).inserted == 3
    assert [row["seq"] for row in await shop.stores.postgres.fetch("SELECT seq FROM quarantined")] == [4]
    assert await anomalies(shop) == []


async def test_a_late_event_of_a_released_seq_is_an_anomaly(shop: LedgerShop) -> None:
    events = issue(shop, 3)
    await shop.stores.postgres.execute(
        "INSERT INTO quarantined (pool_id, seq, epoch, released_at, released_as) VALUES ($1, 2, 1, now(), 101)",
        shop.pool_id,
    )
    recorded = await record_in_ledger(shop, events)
    assert (recorded.inserted, recorded.contradicted, recorded.anomalies, recorded.rejected) == (2, 1, 1, [])
    ((kind, seq, detail),) = await anomalies(shop)
    assert (kind, seq, detail["stored"]["released_as"]) == ("released_code_redeemed", 2, 101)
    assert await shop.stores.postgres.fetchval("SELECT count(*) FROM quarantined") == 1


async def test_a_contradicting_event_leaves_a_seq_quarantined(shop: LedgerShop) -> None:
    (event,) = issue(shop, 1)
    await shop.stores.postgres.execute("INSERT INTO quarantined (pool_id, seq, epoch) VALUES ($1, 1, 1)", shop.pool_id)
    recorded = await record_in_ledger(shop, [replace(event, code="forged")])
    assert (recorded.contradicted, recorded.anomalies, recorded.rejected) == (1, 1, [])
    assert await shop.stores.postgres.fetchval("SELECT count(*) FROM quarantined") == 1


async def test_a_recorded_redemption_resolves_its_dead_letter(shop: LedgerShop) -> None:
    events = issue(shop, 2)
    await shop.stores.postgres.execute(
        "INSERT INTO dead_letters (partition, stream_id, epoch, pool_id, seq, reason, raw)"
        " VALUES (0, '1-1', 1, $1, 1, 'x', '{}'), (0, '1-1', 1, $1, 90, 'x', '{}')",
        shop.pool_id,
    )
    await record_in_ledger(shop, events)
    waiting = await shop.stores.postgres.fetch("SELECT seq FROM dead_letters WHERE resolved_at IS NULL")
    assert [row["seq"] for row in waiting] == [90]


async def test_refused_data_of_a_seq_in_the_ledger_are_an_anomaly_not_a_dead_letter(shop: LedgerShop) -> None:
    first, second = issue(shop, 2)
    await record_in_ledger(shop, [first])
    recorded = await record_in_ledger(shop, [replace(first, code="a\0b"), second])
    assert (recorded.inserted, recorded.contradicted, recorded.anomalies, recorded.rejected) == (1, 1, 1, [])
    ((kind, seq, detail),) = await anomalies(shop)
    assert (kind, seq, detail["event"]["code"]) == ("other_redemption_in_ledger", 1, "a\\u0000b")


async def test_nothing_to_record(shop: LedgerShop) -> None:
    assert await record_in_ledger(shop, []) == RecordResult()
