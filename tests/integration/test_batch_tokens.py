"""Revisions of batches are compared by a random token: Redis or Postgres may have gone back to an earlier one."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from issuer.batches.batch import BatchChanges
from issuer.batches.revisions import push_batch
from issuer.batches.rules import parse_rules
from issuer.batches.store import change_batch, find_batch
from issuer.contract.keys import batch_keys, partition_of
from issuer.contract.outcomes import Outcome
from issuer.recovery.inspection import inspect_batches
from issuer.recovery.opening import open_stores
from issuer.recovery.recovery import RecoveryOptions
from issuer.settings import Settings
from issuer.storage.lineage import IncidentError
from issuer.storage.redis_link import Link, NotReadyError, RedisUnavailableError
from issuer.storage.stores import Stores
from tests.support.parameters import some_long
from tests.support.recording import failing_after
from tests.support.recovery import CLIENT, blessed_again, drain, engine_of, make_batch, ready, redeem, verdict
from tests.support.rollback import copy_tables, go_back
from tests.support.servers import RedisServer

pytestmark = pytest.mark.long

PAUSED, RESUMED = BatchChanges(paused=True), BatchChanges(paused=False)
ONE_EACH = BatchChanges(rules=parse_rules({"maxpercustomer": 1}))


async def in_redis(stores: Stores, batch_id: UUID) -> dict[str, str]:
    key = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id).batch
    found: Any = await stores.redis.client.hgetall(key)
    return {name.decode(): value.decode() for name, value in found.items()}


@pytest.mark.parametrize("lost", some_long([[PAUSED, RESUMED], [PAUSED], [PAUSED, RESUMED, PAUSED]]))
async def test_a_change_on_a_postgres_that_lost_revisions_is_an_incident(
    own_settings: Settings, lost: list[BatchChanges]
) -> None:
    """The number of the new revision is the one that Redis has, or lower. It is not taken for that of Redis."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 10)
        await copy_tables(stores.postgres)
        for change in lost:
            await change_batch(stores, batch_id, change, actor="test")
        await go_back(stores.postgres)
        before = await in_redis(stores, batch_id)
        with pytest.raises(NotReadyError):
            await change_batch(stores, batch_id, ONE_EACH, actor="test")
        # The process itself may have looked up the tokens of the revisions that it replaced before.
        assert "went back" in await stores.postgres.fetchval("SELECT incident FROM installation")
        assert await in_redis(stores, batch_id) == before

        report = await stores.guardian.check(RecoveryOptions(restored=True))
        assert report is not None
        batch = await find_batch(stores.postgres, batch_id)
        there = await in_redis(stores, batch_id)
        assert (batch.in_redis, there["limits"], there["paused"]) == (True, "1:0", "0")
        await change_batch(stores, batch_id, PAUSED, actor="test")
        assert (await in_redis(stores, batch_id))["paused"] == "1"


async def test_a_higher_number_is_no_excuse(own_settings: Settings) -> None:
    """Postgres went back and has more revisions than Redis by now: the token that the push replaces is unknown."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 10)
        await copy_tables(stores.postgres)
        await change_batch(stores, batch_id, PAUSED, actor="test")
        await go_back(stores.postgres)
        await stores.postgres.execute("UPDATE batches SET revision = revision + 5")
        await push_batch(stores, batch_id)
        await stores.incarnations.refresh()
        assert "went back" in str(stores.incarnations.incident)


async def test_a_pair_is_restored_whose_redis_has_a_later_revision(own_settings: Settings) -> None:
    """The documented restore, where a batch was changed, and another one created, between the two copies."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 10)
        await copy_tables(stores.postgres)
        await change_batch(stores, batch_id, ONE_EACH, actor="test")
        await change_batch(stores, batch_id, PAUSED, actor="test")
        await make_batch(stores, 10)
        await go_back(stores.postgres)
    async with open_stores(own_settings, wait_until_ready=False) as stores:
        with pytest.raises(IncidentError):
            await stores.guardian.check(RecoveryOptions(margin=1))
        await stores.guardian.check(RecoveryOptions(restored=True))
        there = await in_redis(stores, batch_id)
        assert (there["limits"], there["paused"]) == ("", "0")
        assert await verdict(stores) == "bounded"


@pytest.mark.parametrize("change", some_long([ONE_EACH, PAUSED, BatchChanges(expired=True)]))
async def test_old_data_that_lack_only_a_change_of_a_batch_are_a_loss(
    own_settings: Settings, own_redis: RedisServer, tmp_path: Path, change: BatchChanges
) -> None:
    async with open_stores(own_settings) as stores, engine_of(own_settings, stores) as engine:
        batch_id = await make_batch(stores, 200)
        await redeem(engine, batch_id, 5)
        await drain(stores)
        shutil.copytree(own_redis.directory / "appendonlydir", tmp_path / "copy")
        await change_batch(stores, batch_id, change, actor="test")
        own_redis.kill9()
        own_redis.wipe()
        shutil.copytree(tmp_path / "copy", own_redis.directory / "appendonlydir")
        own_redis.start()
        await blessed_again(stores)
        await ready(engine)
        ref, customer = engine.pool_ref(batch_id, CLIENT), uuid.uuid4().bytes
        answers = [(await engine.redeem(ref, customer)).outcome for _ in range(2)]
        assert answers.count(Outcome.GRANTED) < 2
        batch = await find_batch(stores.postgres, batch_id)
        there = await in_redis(stores, batch_id)
        assert (there["limits"], there["paused"], there["state"] == "ended") == (
            batch.rules.packed(), str(int(batch.paused)), batch.expired,
        )  # fmt: skip
        assert await verdict(stores) == "bounded"


async def test_a_revision_whose_confirmation_was_lost_is_known(own_settings: Settings, own_redis: RedisServer) -> None:
    """Redis has a revision that Postgres has not marked as pushed, and has replaced since."""
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 10)
        with pytest.raises(RedisUnavailableError):
            await change_batch(failing_after(stores, 0, lost=True), batch_id, PAUSED, actor="test")
        await stores.postgres.execute("UPDATE batches SET revision = revision + 1")
        own_redis.kill9()
        own_redis.start()
        await blessed_again(stores)
        await push_batch(stores, batch_id)
        await stores.incarnations.refresh()
        assert (await verdict(stores), stores.incarnations.incident) == ("restart", None)


async def test_a_batch_in_redis_is_compared_with_what_postgres_has_confirmed(own_settings: Settings) -> None:
    async with open_stores(own_settings) as stores, stores.postgres.acquire() as connection:
        batch_id = await make_batch(stores, 10)
        await change_batch(stores, batch_id, PAUSED, actor="test")
        key, other = batch_keys(partition_of(batch_id, stores.redis.partitions), batch_id).batch, uuid.uuid4()
        link = Link(own_settings, None)
        await link.open()
        try:
            for revision, token, behind, unknown in (("2", other.hex, 0, [other]), ("1", other.hex, 1, [])):
                await stores.redis.client.hset(key, mapping={"revision": revision, "token": token})
                found = await inspect_batches(link, connection, stores.redis.partitions)
                assert (len(found.behind), found.unknown) == (behind, unknown)
            await stores.redis.client.delete(key)
            assert (await inspect_batches(link, connection, stores.redis.partitions)).behind != []
        finally:
            await link.aclose()
