"""Redis dies, freezes, runs full, forgets its scripts, fails over."""

from __future__ import annotations

import time

from tests.faults.play import FaultStage, scenario
from tests.faults.world import FaultWorld, wait_for_more
from tests.support.servers import RedisServer, wait_until


@scenario()
def redis_killed(stage: FaultStage) -> None:
    """kill -9 under fsync always: the same data come back, so nothing is missing and nothing is quarantined."""
    world = stage.world
    for _ in range(2 * stage.rounds):
        stage.play_on()
        at = world.fault("redis kill -9")
        world.redis.kill9()
        time.sleep(stage.pick(0, 0, 0.3))
        up_at = time.monotonic()
        world.redis.start()
        world.times_to_good_s.append(world.await_good(at) - (up_at - at))


@scenario()
def redis_frozen(stage: FaultStage) -> None:
    """SIGSTOP: requests time out, and what Redis finds in its sockets afterwards must not run twice or too late."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("redis frozen")
        world.redis.freeze()
        time.sleep(stage.pick(0.5, 2.5, 3.5))
        world.redis.thaw()
        world.await_good(at)


@scenario()
def redis_frozen_long(stage: FaultStage) -> None:
    """Ten seconds (four in a short run): longer than the deadline of every call that was on its way."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("redis frozen 10 s")
        world.redis.freeze()
        time.sleep(10 if stage.rounds > 1 else 4)
        world.redis.thaw()
        world.await_good(at)


@scenario()
def scripts_flushed_and_connections_killed(stage: FaultStage) -> None:
    """Redis forgets every script and every connection, as after a failover or CLIENT KILL by hand."""
    world = stage.world
    for _ in range(2 * stage.rounds):
        stage.play_on(150)
        at = world.fault("scripts flushed, connections killed")
        with world.redis.client() as client:
            client.script_flush()
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        world.await_good(at)


@scenario()
def redis_out_of_memory(stage: FaultStage) -> None:
    """maxmemory with noeviction: refused as a whole, before the first write, and served again when there is room."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.fault("redis out of memory")
        with world.redis.client() as client:
            client.config_set("maxmemory", "1mb")
            wait_for_more(lambda: world.traffic.refused(503), 20, "customers are refused")
            client.config_set("maxmemory", "0")
        world.await_good(time.monotonic())


def replica_of(primary: RedisServer, world: FaultWorld) -> RedisServer:
    """A replica that has caught up."""
    replica = world.add_redis({"replicaof": f"127.0.0.1 {primary.port}"})

    def is_linked() -> bool:
        with replica.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    wait_until(is_linked, "the replica is in step")
    return replica


def promote(replica: RedisServer) -> None:
    with replica.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")


def _fail_over(stage: FaultStage, kind: str) -> None:
    """The replica lags, the primary dies, the replica takes its place behind the same address."""
    world = stage.world
    proxy = world.proxies["redis"]
    follower: RedisServer | None = None
    for _ in range(stage.rounds):
        # Never two at a time: WAIT for one would be content with the one that is not promoted.
        replica = follower or replica_of(world.redis, world)
        world.await_good(time.monotonic())
        stage.play_on()
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
        world.await_good(at)


@scenario(missing=True, through=("redis",))
def failover_to_lagging_replica(stage: FaultStage) -> None:
    """Two seconds of answered redemptions are unknown to the new primary: no code of them goes out again."""
    _fail_over(stage, "failover to a lagging replica")


@scenario(loss=True, through=("redis",), environment={"ISSUER_WAIT_REPLICAS": "1", "ISSUER_WAIT_TIMEOUT_MS": "300"})
def failover_with_wait(stage: FaultStage) -> None:
    """With WAIT nothing was answered that the replica did not have."""
    _fail_over(stage, "failover with WAIT")
