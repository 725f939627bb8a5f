"""Quarantined seqs: listed, released to the tail of their pools, and moved into the ledger by late events."""

from __future__ import annotations

import uuid

import orjson
import pytest

from issuer.batches.store import BatchNotFoundError
from issuer.contract.events import Redemption
from issuer.contract.outcomes import Outcome
from issuer.ledger.record import record_redemptions
from issuer.pools.top_up import top_up
from issuer.recovery.opening import GuardedStores
from issuer.recovery.recovery import RecoveryOptions
from issuer.recovery.release import list_quarantined, release
from issuer.settings import Settings
from tests.support.recovery import CLIENT, engine_of, make_batch, redeem, seqs


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_backlog": 10})


async def _redemption(stores: GuardedStores, seq: int) -> Redemption:
    pool_id = await stores.postgres.fetchval("SELECT id FROM pools")
    return Redemption(pool_id, seq, f"CODE{seq}", uuid.uuid4(), 1_700_000_000_000, uuid.uuid4(), None, 0, 1, seq)


async def test_released_codes_come_last_and_old_seqs_stay_listed(settings: Settings, stores: GuardedStores) -> None:
    batch_id = await make_batch(stores, 20)
    await stores.guardian.check(RecoveryOptions(restored=True))
    await top_up(stores)
    (held,) = await list_quarantined(stores.postgres)
    assert (held.held, held.released, held.first_seq, held.last_seq) == (10, 0, 1, 10)
    assert await release(stores, batch_id, actor="test") == 10
    assert await release(stores, batch_id, actor="test") == 0
    (held,) = await list_quarantined(stores.postgres, batch_id)
    assert (held.held, held.released) == (0, 10)
    async with engine_of(settings, stores) as engine:
        given = [await redeem(engine, batch_id, 1) for _ in range(10)]
        assert [a.code for (a,) in given] == [f"CODE{i}" for i in range(11, 21)]
        (full,) = await redeem(engine, batch_id, 1)
        assert full.outcome is Outcome.BACKLOG_FULL
    rows = await stores.postgres.fetch("SELECT seq, code FROM codes ORDER BY seq")
    assert [(r["seq"], r["code"]) for r in rows[10:]] == [(20 + i, f"CODE{i}") for i in range(1, 11)]
    assert await stores.postgres.fetchval("SELECT total FROM pools") == 30


async def test_the_codes_of_one_recovery_are_released_without_those_of_another(stores: GuardedStores) -> None:
    batch_id = await make_batch(stores, 40)
    for _ in range(2):
        await stores.guardian.check(RecoveryOptions(restored=True))
        await top_up(stores)
    first, second = await list_quarantined(stores.postgres)
    assert (first.held, second.held, second.first_seq) == (10, 10, 11)
    assert await release(stores, batch_id, epoch=second.epoch, actor="test") == 10
    first, second = await list_quarantined(stores.postgres)
    assert ((first.held, first.released), (second.held, second.released)) == ((10, 0), (0, 10))
    detail = await stores.postgres.fetchval(
        "SELECT detail::text FROM audit_log WHERE action = 'quarantined.release' ORDER BY id DESC LIMIT 1"
    )
    assert orjson.loads(detail)["epoch"] == second.epoch


async def test_a_late_event_ends_a_quarantine_and_is_an_anomaly_after_a_release(
    stores: GuardedStores,
) -> None:
    batch_id = await make_batch(stores, 20)
    await stores.guardian.check(RecoveryOptions(restored=True))
    async with stores.postgres.acquire() as connection, connection.transaction():
        recorded = await record_redemptions(connection, [await _redemption(stores, 3)])
    assert (recorded.inserted, recorded.anomalies) == (1, 0)
    assert await seqs(stores, "quarantined") == [1, 2, *range(4, 11)]
    await release(stores, batch_id, client_id=CLIENT, actor="test")
    async with stores.postgres.acquire() as connection, connection.transaction():
        recorded = await record_redemptions(connection, [await _redemption(stores, 4)])
    assert (recorded.inserted, recorded.anomalies) == (0, 1)
    assert await stores.postgres.fetchval("SELECT kind FROM anomalies") == "released_code_redeemed"


async def test_an_unknown_batch_is_an_error_and_nothing_is_released(stores: GuardedStores) -> None:
    batch_id = await make_batch(stores, 20)
    await stores.guardian.check(RecoveryOptions(restored=True))
    with pytest.raises(BatchNotFoundError):
        await release(stores, uuid.uuid4(), actor="test")
    with pytest.raises(BatchNotFoundError):
        await release(stores, batch_id, client_id=uuid.uuid4(), actor="test")
    assert (await list_quarantined(stores.postgres))[0].held == 10
