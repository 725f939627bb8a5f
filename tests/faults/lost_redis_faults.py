"""A lost Redis and the hosts of the API: who can still say what was answered."""

from __future__ import annotations

import shutil
import time

from tests.faults.scenario import ScenarioContext, scenario
from tests.faults.world import FaultWorld
from tests.faults.world_database import wait_for_more
from tests.support.servers import wait_until

QUARANTINED = "SELECT FROM quarantined WHERE released_at IS NULL LIMIT 1"


def _flush(world: FaultWorld) -> None:
    with world.redis.client() as client:
        client.flushall()


@scenario(hosts=2)
def redis_flushed_while_idle(context: ScenarioContext) -> None:
    """Nothing is in flight, and the ledger has everything."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.traffic.stop()
        wait_until(lambda: world.unrecorded_events() == 0, "all events are recorded")
        at = world.fault("redis flushed while idle")
        _flush(world)
        context.pause(3.0)
        world.traffic.start()
        world.await_code(at)


@scenario(hosts=2, apis=4)
def redis_flushed_under_load_on_two_hosts(context: ScenarioContext) -> None:
    """Each host has receipts that the ledger lacks; one of its processes has ended, and the other one speaks for it."""
    world = context.world
    for _ in range(context.rounds):
        wait_until(world.has_codes, "codes are in Redis")
        world.freeze_worker()
        context.run_traffic()
        for api in world.apis[:2]:
            api.kill9()
        at = world.fault("redis flushed on two hosts")
        _flush(world)
        world.workers[0].thaw()
        world.await_code(at)
        for api in world.apis[:2]:
            api.start()


@scenario(missing=True, hosts=2)
def journal_of_one_host_lost(context: ScenarioContext) -> None:
    """One host burns down together with Redis, before the worker has recorded what it answered."""
    world = context.world
    for _ in range(context.rounds):
        world.freeze_worker()
        context.run_traffic()
        world.fault("journal of one host lost")
        world.apis[1].kill9()
        shutil.rmtree(world.journals(1))
        world.redis.kill9()
        world.redis.wipe()
        world.workers[0].thaw()
        world.redis.start()
        world.await_code(time.monotonic())
        assert world.sql(QUARANTINED), "nothing is quarantined although a journal is lost"
        world.apis[1].start()


@scenario(hosts=2)
def host_silent_while_redis_is_wiped(context: ScenarioContext) -> None:
    """What a host may have answered is quarantined while it is silent; it returns, and the quarantine ends."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.apis[1].freeze()
        # What it answered before is behind these in no stream.
        wait_for_more(lambda: world.rows("redemptions"), 100, "the ledger has what it answered")
        at = world.fault("host silent while redis is wiped")
        world.redis.kill9()
        world.redis.wipe()
        world.redis.start()
        world.await_code(at)
        wait_until(lambda: bool(world.sql(QUARANTINED)), "codes are quarantined")
        world.apis[1].thaw()
        wait_until(lambda: not world.sql(QUARANTINED), "the quarantine ends")
        context.run_traffic(100)
