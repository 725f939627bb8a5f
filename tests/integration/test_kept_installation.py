"""What an earlier version has left is upgraded, and everything in it continues: nothing is issued or counted twice."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.ledger.reconcile import reconcile
from issuer.recovery.opening import open_stores
from issuer.recovery.release import release
from issuer.settings import Settings
from issuer.storage.migrate import migrate
from tests.support.kept_installation import KEY, facts, granted, put, use
from tests.support.recovery import CLIENT, drain, engine_of, redeem, verdict
from tests.support.servers import START_LIMIT_S, RedisServer


async def test_a_kept_installation_is_upgraded_and_continues(
    own_settings: Settings, own_redis: RedisServer, empty_database_url: str
) -> None:
    settings = own_settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    kept = facts()
    batch_id, campaign_id, customer = UUID(kept.batch_id), UUID(kept.campaign_id), UUID(kept.customer)
    await put(settings, own_redis)
    await _migrate_while_uses_are_recorded(settings, empty_database_url)
    async with open_stores(settings) as stores:
        assert await verdict(stores) == "restart"
        async with engine_of(settings, stores) as engine:
            ref = engine.pool_ref(batch_id, CLIENT)
            again = await engine.redeem(ref, customer.bytes, idempotency_key=KEY)
            assert again == Answer(Outcome.REPLAYED, kept.code)
            assert (await engine.redeem(ref, customer.bytes)).outcome is Outcome.LIMIT_REACHED
            issued = granted(await redeem(engine, batch_id, 3)) + granted(await redeem(engine, campaign_id, 3))
            used = granted(await use(engine, 2))
        await drain(stores)
        counts = [
            await stores.postgres.fetchval(f"SELECT count(*) FROM {table}")
            for table in ("redemptions", "consumptions", "quarantined")
        ]
        assert counts == [kept.recorded + kept.unread + issued, kept.used + used, kept.quarantined]
        codes = await stores.postgres.fetch("SELECT code FROM redemptions WHERE batch_id = $1", batch_id)
        assert len({row["code"] for row in codes}) == len(codes)
        assert await release(stores, batch_id, actor="test") == kept.quarantined
        result = await reconcile(stores)
        assert result.holds, result.to_json()


async def _migrate_while_uses_are_recorded(settings: Settings, url: str) -> None:
    """Migrate while one worker has a use in a transaction, and another one records the next use."""
    one, two = await asyncpg.connect(url), await asyncpg.connect(url)
    recording = one.transaction()
    await recording.start()
    await one.execute(_USE, 1_000_001)
    migrating = asyncio.create_task(migrate(settings))
    try:
        async with asyncio.timeout(START_LIMIT_S):
            while not await two.fetchval(_IS_WAITING):
                await asyncio.sleep(0.02)
        recording_too = two.transaction()
        await recording_too.start()
        await two.execute("SET LOCAL lock_timeout = '3s'")
        await two.execute(_USE, 1_000_002)
        await recording_too.rollback()
        await recording.rollback()
        await migrating
        assert await two.fetchval(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'consumptions_by_order'::regclass"
        )
    finally:
        one.terminate()
        two.terminate()
        await asyncio.gather(migrating, return_exceptions=True)


_USE = """
INSERT INTO consumptions (pool_id, seq, terms, consumed_at, call_id, api_key_id, epoch)
VALUES (1, $1, 1, now(), gen_random_uuid(), 0, 1)"""
_IS_WAITING = """
SELECT EXISTS (SELECT FROM pg_stat_activity
  WHERE datname = current_database() AND application_name = 'issuer migrate' AND wait_event_type = 'Lock')"""


def test_the_kept_installation_has_something_of_everything() -> None:
    kept = facts()
    assert min(kept.recorded, kept.unread, kept.used, kept.quarantined) > 0
