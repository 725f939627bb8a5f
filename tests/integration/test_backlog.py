"""The bound of the backlog changes in an order in which the bound in Postgres is never too small."""

from __future__ import annotations

from issuer.contract.outcomes import Outcome
from issuer.recovery.backlog import set_max_backlog
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.recovery import drain, engine_of, make_batch, redeem


async def _bound(stores: Stores) -> int:
    return int(await stores.postgres.fetchval("SELECT max_backlog FROM installation"))


async def test_a_lower_bound_counts_at_once_and_in_postgres_once_the_backlog_is_within_it(
    settings: Settings, stores: Stores
) -> None:
    before = await _bound(stores)
    batch_id = await make_batch(stores, 100)
    async with engine_of(settings, stores) as engine:
        await redeem(engine, batch_id, 20)
        assert not await set_max_backlog(stores, 10, wait_s=0, actor="test")
        assert await _bound(stores) == before
        assert {a.outcome for a in await redeem(engine, batch_id, 2)} == {Outcome.BACKLOG_FULL}
        await drain(stores)
        assert await set_max_backlog(stores, 10, wait_s=5, actor="test")
        assert await _bound(stores) == 10
        outcomes = [a.outcome for a in await redeem(engine, batch_id, 12)]
        assert (outcomes.count(Outcome.GRANTED), outcomes.count(Outcome.BACKLOG_FULL)) == (10, 2)


async def test_a_higher_bound_counts_at_once(settings: Settings, stores: Stores) -> None:
    batch_id = await make_batch(stores, 100)
    await set_max_backlog(stores, 5, wait_s=5, actor="test")
    async with engine_of(settings, stores) as engine:
        await redeem(engine, batch_id, 6)
        assert await set_max_backlog(stores, 50, wait_s=0, actor="test")
        assert await _bound(stores) == 50
        assert {a.outcome for a in await redeem(engine, batch_id, 20)} == {Outcome.GRANTED}
