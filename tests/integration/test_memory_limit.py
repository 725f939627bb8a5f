"""Redis at its memory limit: nothing is issued, and what an operator does to end that takes effect."""

from __future__ import annotations

import uuid

import pytest

from issuer.batches.batch import BatchChanges
from issuer.batches.rules import parse_rules
from issuer.batches.store import change_batch
from issuer.contract.outcomes import Outcome
from issuer.recovery.backlog import set_max_backlog
from issuer.recovery.inspection import Verdict
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from tests.support.recovery import CLIENT, drain, engine_of, make_batch, redeem, seqs, verdict
from tests.support.servers import RedisServer


@pytest.mark.long
async def test_batches_are_paused_ruled_and_ended_after_a_restart_above_the_limit(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        paused, ruled, ended = [await make_batch(stores, 5_000) for _ in range(3)]
        async with engine_of(own_settings, stores) as engine:
            customer = uuid.uuid4().bytes
            first = await engine.redeem(engine.pool_ref(ruled, CLIENT), customer)
            assert first.outcome is Outcome.GRANTED
    own_redis.kill9()
    own_redis.options["maxmemory"] = "1mb"
    own_redis.start()
    async with open_stores(own_settings) as stores:
        assert await verdict(stores) == Verdict.RESTART
        await change_batch(stores, paused, BatchChanges(paused=True), actor="test")
        await change_batch(stores, ruled, BatchChanges(rules=parse_rules({"maxpercustomer": 1})), actor="test")
        await change_batch(stores, ended, BatchChanges(expired=True), actor="test")
        assert await set_max_backlog(stores, 20, wait_s=10, actor="test")
        async with engine_of(own_settings, stores) as engine:
            answers = [(await redeem(engine, batch_id, 1))[0].outcome for batch_id in (paused, ruled, ended)]
            assert answers == [Outcome.PAUSED, Outcome.NOT_READY, Outcome.ENDED]
            # Not the memory: the rules, whose windows were written above the limit.
            refused = await engine.redeem(engine.pool_ref(ruled, CLIENT), customer)
            assert refused.outcome is Outcome.LIMIT_REACHED
            await drain(stores)
        assert await seqs(stores, "redemptions") == [1]


async def test_a_loss_above_the_limit_is_recovered_with_limits_and_kept_answers(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 5_000, {"maxpercustomer": 1})
        async with engine_of(own_settings, stores) as engine:
            customer, ref = uuid.uuid4().bytes, engine.pool_ref(batch_id, CLIENT)
            first = await engine.redeem(ref, customer, idempotency_key="k")
            await drain(stores)
            with own_redis.client() as client:
                client.config_set("maxmemory", "1mb")
            await stores.guardian.check(RecoveryOptions(restored=True))
        async with engine_of(own_settings, stores) as engine:
            again = await engine.redeem(ref, customer, idempotency_key="k")
            assert (again.outcome, again.code) == (Outcome.REPLAYED, first.code)
            assert (await engine.redeem(ref, customer)).outcome is Outcome.LIMIT_REACHED
