"""Limits of Redis: its memory, its eviction policy, its consumer groups; and events that a worker cannot read yet."""

from __future__ import annotations

import time

import redis

from issuer.contract.keys import GROUP, partition_keys
from tests.faults.scenario import ScenarioContext, scenario
from tests.faults.world import PARTITIONS, FaultWorld
from tests.faults.world_database import wait_for_more
from tests.support.servers import wait_until

SMALL_BOUND = 60


def _await_refusals(world: FaultWorld) -> None:
    wait_for_more(lambda: world.traffic.refused(503), 30, "customers are refused")


@scenario()
def redis_restarts_above_its_memory_limit(context: ScenarioContext) -> None:
    """It is recovered above its limit, and control writes pass there, before and after the restart."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.fault("redis restarts above its memory limit")
        with world.redis.client() as client:
            client.config_set("maxmemory", "1mb")
        _await_refusals(world)
        _set_max_backlog(world, 1_000)
        epoch = _blessed_epoch(world)
        world.redis.options = world.redis.options | {"maxmemory": "1mb"}
        world.redis.kill9()
        world.redis.start()
        wait_until(lambda before=epoch: _blessed_epoch(world) > before, "it is blessed above its limit")  # type: ignore[misc]
        _await_refusals(world)
        _set_max_backlog(world, 2_000)
        world.redis.options = world.redis.options | {"maxmemory": "0"}
        with world.redis.client() as client:
            client.config_set("maxmemory", "0")
        world.await_code(time.monotonic())


def _blessed_epoch(world: FaultWorld) -> int:
    return int(world.sql("SELECT max(epoch) AS epoch FROM incarnations")[0]["epoch"])


def _set_max_backlog(world: FaultWorld, bound: int) -> None:
    done = world.run_issuer("max-backlog", str(bound))
    assert done.returncode == 0, done.stderr


@scenario(tolerated=("events_deleted",))
def eviction_policy_switched(context: ScenarioContext) -> None:
    """Nothing is issued by a Redis that may evict; what it evicts is rebuilt: windows, pools, even streams."""
    world = context.world
    for _ in range(context.rounds):
        for policy in ("volatile-ttl", "allkeys-random"):
            context.run_traffic()
            world.fault(f"eviction policy switched to {policy}")
            with world.redis.client() as client:
                client.config_set("maxmemory-policy", policy)
                wait_until(lambda: not any(api.can_redeem() for api in world.apis), "no process is ready")
                begun, enough = time.monotonic(), _evicted(client) + 30
                while world.has_pools() if policy == "allkeys-random" else _evicted(client) < enough:
                    client.config_set("maxmemory", max(1, int(client.info("memory")["used_memory"]) - 100_000))
                    client.echo("the server evicts before each command")
                context.pause(1.0)
                assert world.traffic.seconds_to_code(begun) is None, "a Redis that may evict issued a code"
                client.config_set("maxmemory", "0")
                client.config_set("maxmemory-policy", "noeviction")
            world.await_code(time.monotonic())


def _evicted(client: redis.Redis) -> int:
    return int(client.info("stats")["evicted_keys"])


@scenario()
def group_destroyed_under_load(context: ScenarioContext) -> None:
    """The consumer groups are destroyed while Redis, the worker and the customers continue."""
    world = context.world
    for _ in range(2 * context.rounds):
        context.run_traffic(150)
        at = world.fault("consumer group destroyed under load")
        with world.redis.client() as client:
            for partition in range(PARTITIONS):
                client.xgroup_destroy(partition_keys(partition).stream, GROUP)
        world.await_code(at)
        wait_for_more(lambda: world.rows("redemptions"), 100, "the worker records again")


@scenario(environment={"ISSUER_MAX_BACKLOG": str(SMALL_BOUND)})
def events_of_a_later_version(context: ScenarioContext) -> None:
    """A worker of an earlier version leaves them where they are, up to the bound; one of this version records them."""
    world = context.world
    worker = world.workers[0]
    for _ in range(context.rounds):
        context.run_traffic(60)
        world.fault("events of a later version")
        worker.kill9()
        worker.module = "tests.faults.older_worker"
        worker.start()
        wait_for_more(lambda: world.traffic.refused("backlog_full"), 30, "the backlog is full")
        worker.kill9()
        worker.module = type(worker).module
        worker.start()
        world.await_code(time.monotonic())
