"""Faults of the Redis process: killed, frozen, out of memory, scripts flushed, failed over."""

from __future__ import annotations

import time

from tests.faults.scenario import ScenarioContext, scenario
from tests.faults.world import FaultWorld
from tests.faults.world_database import wait_for_more
from tests.support.servers import RedisServer, wait_until


@scenario()
def redis_killed(context: ScenarioContext) -> None:
    """kill -9 with `appendfsync always`: the data are complete, so nothing is missing and nothing is quarantined."""
    world = context.world
    for _ in range(2 * context.rounds):
        context.run_traffic()
        at = world.fault("redis kill -9")
        world.redis.kill9()
        time.sleep(context.pick(0, 0, 0.3))
        up_at = time.monotonic()
        world.redis.start()
        world.recovery_times_s.append(world.await_code(at) - (up_at - at))


@scenario()
def redis_frozen(context: ScenarioContext) -> None:
    """SIGSTOP: requests time out, and calls that Redis reads afterwards must not run twice or after their deadline."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("redis frozen")
        world.redis.freeze()
        time.sleep(context.pick(0.5, 2.5, 3.5))
        world.redis.thaw()
        world.await_code(at)


@scenario()
def redis_frozen_long(context: ScenarioContext) -> None:
    """SIGSTOP for ten seconds (four in a short run): longer than the deadline of every call in flight."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("redis frozen 10 s")
        world.redis.freeze()
        time.sleep(10 if context.rounds > 1 else 4)
        world.redis.thaw()
        world.await_code(at)


@scenario()
def scripts_flushed_and_connections_killed(context: ScenarioContext) -> None:
    """SCRIPT FLUSH and CLIENT KILL: all scripts and connections are lost, as after a failover."""
    world = context.world
    for _ in range(2 * context.rounds):
        context.run_traffic(150)
        at = world.fault("scripts flushed, connections killed")
        with world.redis.client() as client:
            client.script_flush()
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        world.await_code(at)


@scenario()
def redis_out_of_memory(context: ScenarioContext) -> None:
    """maxmemory with noeviction: calls are refused as a whole, before the first write, until there is memory again."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.fault("redis out of memory")
        with world.redis.client() as client:
            client.config_set("maxmemory", "1mb")
            wait_for_more(lambda: world.traffic.refused(503), 20, "customers are refused")
            client.config_set("maxmemory", "0")
        world.await_code(time.monotonic())


def replica_of(primary: RedisServer, world: FaultWorld) -> RedisServer:
    """Start a replica and wait until it is in sync."""
    replica = world.add_redis({"replicaof": f"127.0.0.1 {primary.port}"})

    def is_linked() -> bool:
        with replica.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    wait_until(is_linked, "the replica is in sync")
    return replica


def promote(replica: RedisServer) -> None:
    with replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")


def _fail_over(context: ScenarioContext, kind: str) -> None:
    """Freeze the replica, kill the primary, and promote the replica behind the same address."""
    world = context.world
    proxy = world.proxies["redis"]
    follower: RedisServer | None = None
    for _ in range(context.rounds):
        # Never two replicas at a time: WAIT for one could be satisfied by the one that is not promoted.
        replica = follower or replica_of(world.redis, world)
        world.await_code(time.monotonic())
        context.run_traffic()
        replica.freeze()
        time.sleep(2)
        at = world.fault(kind)
        world.redis.kill9()
        replica.thaw()
        promote(replica)
        proxy.target = replica.port
        proxy.cut()
        world.redis = replica
        if "ISSUER_WAIT_REPLICAS" in world.environment:
            follower = replica_of(replica, world)
        world.await_code(at)


@scenario(missing=True, twin=True, through=("redis",))
def failover_to_lagging_replica(context: ScenarioContext) -> None:
    """The new primary lacks two seconds of answered redemptions: none of their codes is issued again."""
    _fail_over(context, "failover to a lagging replica")


@scenario(loss=True, through=("redis",), environment={"ISSUER_WAIT_REPLICAS": "1", "ISSUER_WAIT_TIMEOUT_MS": "300"})
def failover_with_wait(context: ScenarioContext) -> None:
    """With WAIT the replica has every answered redemption."""
    _fail_over(context, "failover with WAIT")
