"""Redemptions without a customer, from the engine to the ledger and back: no limits, and keys that are the batch's."""

from __future__ import annotations

import asyncio
import uuid

from issuer.contract.keys import NO_API_KEY, anonymous_scope, idempotency_hash
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.recovery import (
    CLIENT,
    drain,
    engine_of,
    lose_data,
    make_batch,
)
from tests.support.servers import RedisServer

PRINTABLE = b"AAAAAAAAAAAAAAAA"
"""A customer's id of which every byte could stand in a key."""


def test_an_anonymous_key_never_equals_a_customers_key() -> None:
    assert idempotency_hash(PRINTABLE, "x") != idempotency_hash(None, PRINTABLE.decode() + "x")
    assert idempotency_hash(bytes(16), "x") != idempotency_hash(None, "x")
    assert idempotency_hash(None, "x") == idempotency_hash(None, "x") != idempotency_hash(None, "y")


def test_an_anonymous_key_belongs_to_a_client_and_a_kind_of_api_key() -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    scopes = [NO_API_KEY]
    scopes += [anonymous_scope(client, public=public) for client in (None, one, two) for public in (False, True)]
    assert len({idempotency_hash(None, "order-4712", scope) for scope in scopes}) == len(scopes)
    # Of one length: no scope and key together read as another scope and key.
    assert {len(scope) for scope in scopes} == {17}
    customer = one.bytes
    assert len({idempotency_hash(customer, "order-4712", scope) for scope in scopes}) == 1


async def test_anonymous_redemptions_have_no_limits_beside_limited_customers(
    settings: Settings, stores: Stores
) -> None:
    batch_id = await make_batch(stores, 100, {"maxpercustomer": 1})
    other_id = await make_batch(stores, 100)
    customer = uuid.uuid4().bytes
    async with engine_of(settings, stores) as engine:
        ref, other = engine.pool_ref(batch_id, CLIENT), engine.pool_ref(other_id, CLIENT)
        # As many as fit into one call: anonymous ones, a customer twice, an anonymous key twice.
        answers = await asyncio.gather(
            *(engine.redeem(ref, None) for _ in range(10)),
            *(engine.redeem(ref, customer) for _ in range(2)),
            *(engine.redeem(ref, None, idempotency_key="k") for _ in range(2)),
            engine.redeem(other, None, idempotency_key="k"),
            engine.redeem(ref, PRINTABLE, idempotency_key="k"),
        )
    outcomes = [answer.outcome for answer in answers]
    assert outcomes[:10] == [Outcome.GRANTED] * 10
    assert sorted(outcomes[10:12]) == [Outcome.GRANTED, Outcome.LIMIT_REACHED]
    assert outcomes[12:] == [Outcome.GRANTED, Outcome.REPLAYED, Outcome.GRANTED, Outcome.GRANTED]
    assert answers[12].code == answers[13].code
    codes = {answer.code for answer in answers[:13]} - {""} | {answers[15].code}
    assert len(codes) == 13
    await drain(stores)
    rows = await stores.postgres.fetch("SELECT customer_id FROM redemptions WHERE batch_id = $1", batch_id)
    assert sum(row["customer_id"] is None for row in rows) == 11
    assert len(rows) == 13


async def test_an_anonymous_key_survives_a_wiped_redis(own_settings: Settings, own_redis: RedisServer) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 200)
        async with engine_of(own_settings, stores) as engine:
            ref = engine.pool_ref(batch_id, CLIENT)
            first = await engine.redeem(ref, None, idempotency_key="k")
            assert first.outcome is Outcome.GRANTED
            scopes = [anonymous_scope(CLIENT, public=public) for public in (False, True)]
            scoped = [await engine.redeem(ref, None, idempotency_key="k", key_scope=scope) for scope in scopes]
            assert len({first.code, *(answer.code for answer in scoped)}) == 3
            await drain(stores)
            await lose_data(own_redis, stores, engine)
            assert await engine.redeem(ref, None, idempotency_key="k") == Answer(Outcome.REPLAYED, first.code)
            again = [await engine.redeem(ref, None, idempotency_key="k", key_scope=scope) for scope in scopes]
            assert again == [Answer(Outcome.REPLAYED, answer.code) for answer in scoped]
            assert (await engine.redeem(ref, uuid.uuid4().bytes, idempotency_key="k")).outcome is not Outcome.REPLAYED
