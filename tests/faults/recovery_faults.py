"""Recovery itself is killed, finds Postgres away, or has an old primary beside it that lives on."""

from __future__ import annotations

import time

from tests.faults.play import FaultStage, scenario, start_again
from tests.faults.world import FaultWorld
from tests.support.servers import wait_until

STEPS = ("installation", "incarnations", "pools", "redemptions", "quarantined", "batches", "codes", "dead_letters")
"""A recovery that wants one of these tables while we hold it stands still at that step."""


def _kill_programs(world: FaultWorld) -> None:
    for process in (*world.apis, *world.workers):
        process.kill9()


def _start_programs(world: FaultWorld) -> None:
    for process in (*world.apis, *world.workers):
        process.begin()
    for api in world.apis:
        wait_until(api.is_ready, "the API is up")


def _wipe(world: FaultWorld) -> None:
    world.redis.kill9()
    world.redis.wipe()
    world.redis.start()


def _lose_everything(world: FaultWorld) -> None:
    world.fault("all programs killed, redis wiped")
    _kill_programs(world)
    _wipe(world)


@scenario(missing=True)
def recovery_killed_at_each_step(stage: FaultStage) -> None:
    """All programs die while the recovery waits for a table that is locked; those that follow carry on."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        _lose_everything(world)
        for table in stage.rng.sample(STEPS, 2 if stage.rounds == 1 else len(STEPS)):
            _kill_programs(world)
            with world.locking(table):
                _start_programs(world)
                world.wait_until_wanted(table)
                world.fault(f"recovery killed at {table}")
                _kill_programs(world)
        at = time.monotonic()
        _start_programs(world)
        world.await_good(at)


@scenario(missing=True, environment={"ISSUER_POSTGRES_TIMEOUT_S": "1"})
def recovery_frozen(stage: FaultStage) -> None:
    """SIGSTOP of the process that recovers: the others do not wait for ever, and it does not go on when it wakes."""
    world = stage.world
    first = world.apis[0]
    for _ in range(stage.rounds):
        stage.play_on()
        _lose_everything(world)
        table = stage.rng.choice(STEPS[1:])
        with world.locking(table):
            first.begin()
            world.wait_until_wanted(table)
            world.fault("recovery frozen")
            first.freeze()
        at = time.monotonic()
        for process in (*world.apis[1:], *world.workers):
            process.begin()
        world.await_good(at)
        first.thaw()
        stage.play_on(100)


@scenario(missing=True)
def recovery_killed_at_random(stage: FaultStage) -> None:
    """All programs, or Redis, die some milliseconds after a loss, again and again."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        _wipe(world)
        for _ in range(3):
            time.sleep(stage.rng.uniform(0, 0.6))
            world.fault("recovery killed")
            if stage.rng.random() < 0.4:
                world.redis.kill9()
                if stage.rng.random() < 0.3:
                    world.redis.wipe()
                world.redis.start()
            else:
                _kill_programs(world)
                _start_programs(world)
        world.await_good(time.monotonic())


@scenario(missing=True)
def postgres_down_during_recovery(stage: FaultStage) -> None:
    """Redis comes back empty while Postgres is away: not ready, never sold out; then it recovers by itself."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.fault("postgres down during recovery")
        world.postgres.kill9()
        _wipe(world)
        begun = time.monotonic()
        time.sleep(stage.pick(0.3, 1.0))
        if world.traffic.seconds_to_good(begun) is not None:
            raise AssertionError("a code was handed out by a Redis that nobody had blessed")
        start_again(world.postgres)
        if stage.rng.random() < 0.5:
            time.sleep(stage.rng.uniform(0, 0.3))
            world.fault("postgres killed during recovery")
            world.postgres.kill9()
            start_again(world.postgres)
        world.await_good(begun)


@scenario()
def postgres_down_while_redis_restarts(stage: FaultStage) -> None:
    """The same data come back under another run id while Postgres is away: served again when it is back."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.fault("postgres down while redis restarts")
        world.postgres.kill9()
        world.redis.kill9()
        world.redis.start()
        begun = time.monotonic()
        time.sleep(0.5)
        if world.traffic.seconds_to_good(begun) is not None:
            raise AssertionError("a code was handed out by a Redis that nobody had blessed")
        start_again(world.postgres)
        world.await_good(begun)


@scenario(missing=True, through=("api-postgres", "worker-postgres"), apis=1)
def old_primary_lives_on(stage: FaultStage) -> None:
    """Cut off from Postgres with an API process and a worker of its own, while another server takes over.

    Both hand out codes at the same time; the old one from what the recovery quarantined, until its backlog is full
    or it hears that it was replaced.
    """
    world = stage.world
    stage.play_on()
    old_redis, old_apis, old_workers = world.redis, list(world.apis), list(world.workers)
    old_ways = dict(world.proxies)
    at = world.fault("old primary lives on")
    directions = ("up", "down")
    with old_ways["api-postgres"].holding(*directions), old_ways["worker-postgres"].holding(*directions):
        world.proxies.clear()
        world.redis = world.add_redis()
        api = world.add_api()
        world.add_worker()
        world.traffic.ports = [old_apis[0].port, api.port]
        wait_until(api.can_redeem, "the new primary is blessed")
        stage.play_on()
        time.sleep(stage.pick(0, 1))
    stage.play_on()
    world.await_good(at)
    wait_until(lambda: not any(old.can_redeem() for old in old_apis), "the API process of the replaced server hears it")
    world.traffic.ports = [api.port]
    for process in (*old_apis, *old_workers, old_redis):
        process.kill9()
    stage.play_on(100)


@scenario()
def api_restarted_while_redis_is_down(stage: FaultStage) -> None:
    """A process that has never seen Redis starts while it is away, and while it comes back."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("api started without redis")
        world.redis.kill9()
        for api in world.apis:
            api.kill9()
            api.start()
        world.redis.start()
        world.await_good(at)


@scenario(missing=True, through=("api-postgres", "worker-postgres"), apis=1, environment={"ISSUER_MAX_BACKLOG": "60"})
def old_primary_runs_into_its_bound(stage: FaultStage) -> None:
    """Its worker reaches Postgres again, its API process does not: the worker must not make room for more."""
    world = stage.world
    stage.play_on(60)
    old_api, old_worker, old_redis = world.apis[0], world.workers[0], world.redis
    api_way, worker_way = world.proxies["api-postgres"], world.proxies["worker-postgres"]
    world.fault("old primary, its worker is back")
    with api_way.holding("up", "down"):
        with worker_way.holding("up", "down"):
            world.proxies.clear()
            world.redis = world.add_redis()
            api = world.add_api()
            world.add_worker()
            world.traffic.ports = [old_api.port, api.port]
            wait_until(api.can_redeem, "the new primary is blessed")
        stage.play_on(400)
        time.sleep(1.5)
        stage.play_on(400)
        world.traffic.ports = [api.port]
        old_api.kill9()
    old_worker.kill9()
    old_redis.kill9()
    world.await_good(time.monotonic())
