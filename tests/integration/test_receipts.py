"""Receipts: whatever is answered with a code has one before it is answered, a replay too; otherwise it is a 503."""

from __future__ import annotations

import asyncio
import os
from uuid import UUID, uuid4

import pytest

from issuer.batches.rules import parse_rules
from issuer.contract.events import encode_order
from issuer.contract.outcomes import Outcome
from issuer.coupons.coupon import CouponTerms
from issuer.coupons.locations import CouponLocations
from issuer.coupons.store import create_coupon
from issuer.engine.calls import Answer
from issuer.engine.engine import Engine
from issuer.journal.segments import read_segment, segments
from issuer.ledger.reconcile import reconcile
from issuer.registration.replay import replay
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.recovery import CLIENT, crashing_engine_of, drain, engine_of, make_batch

CUSTOMERS = [uuid4() for _ in range(3)]
COUPON = "SAVE-20"


async def ask(engine: Engine, batch_id: UUID) -> list[Answer]:
    """Redeem a code for three customers and use a coupon for two, each with a key; the last customer asks twice."""
    place, ref = CouponLocations(engine).find(CLIENT, COUPON), engine.pool_ref(batch_id, CLIENT)
    futures = [asyncio.get_running_loop().create_future() for _ in range(6)]
    for future, customer in zip(futures, (*CUSTOMERS, CUSTOMERS[-1]), strict=False):
        engine.submit(future, ref, customer.bytes, 7, "key", customer_text="anna")
    for future, customer in zip(futures[4:], CUSTOMERS, strict=False):
        engine.submit(future, place.use, customer.bytes, 7, "key", place.bare_wish, encode_order("order"))
    return list(await asyncio.gather(*futures))


async def stock(stores: Stores) -> UUID:
    await create_coupon(stores, CLIENT, COUPON, CouponTerms(10, rules=parse_rules({"maxpercustomer": 2})), actor="test")
    return await make_batch(stores, 20, {"maxpercustomer": 1})


def outcomes(answers: list[Answer]) -> set[Outcome]:
    return {answer.outcome for answer in answers}


async def test_the_receipt_of_a_replay_is_the_fact_that_was_granted(settings: Settings, stores: Stores) -> None:
    """The process that granted it has no journal. Whatever is recorded first, both say the same."""
    batch_id = await stock(stores)
    async with engine_of(settings.model_copy(update={"journal": "off"}), stores) as engine:
        first = await ask(engine, batch_id)
        assert [answer.outcome for answer in first].count(Outcome.GRANTED) == 5
    async with crashing_engine_of(settings, stores) as engine:
        again = await ask(engine, batch_id)
        assert outcomes(again) == {Outcome.REPLAYED}
        assert [answer.code for answer in again] == [answer.code for answer in first]
    assert settings.journals is not None
    (journal,) = settings.journals.glob("*/")
    # One for each replay: the customer who asked twice was answered twice.
    assert sum(receipt.facts for path in segments(journal) for receipt in read_segment(path)) == 6
    async with stores.postgres.acquire() as connection:
        assert (await replay(connection, journal)).inserted == 5
        recorded = await connection.fetch("SELECT * FROM ledger ORDER BY pool_id, seq")
        await drain(stores)
        assert await connection.fetch("SELECT * FROM ledger ORDER BY pool_id, seq") == recorded
        assert (await replay(connection, journal)).duplicates == 6
        assert await connection.fetch("SELECT * FROM anomalies") == []
    assert (await reconcile(stores)).holds


async def test_what_has_no_receipt_is_not_answered(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await stock(stores)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for _ in ("granted", "replayed"):
        async with engine_of(settings, stores) as engine:
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", full)
                # A refusal has no receipt and needs none.
                refused = await engine.redeem(engine.pool_ref(uuid4(), CLIENT), CUSTOMERS[0].bytes)
                assert refused.outcome is Outcome.UNKNOWN_BATCH
                assert outcomes(await ask(engine, batch_id)) == {Outcome.NOT_READY}
    async with engine_of(settings, stores) as engine:
        assert outcomes(await ask(engine, batch_id)) == {Outcome.REPLAYED}
    assert len(await stores.postgres.fetch("SELECT * FROM ledger")) == 5
