"""Faults during a recovery: it is killed, Postgres is unavailable, or an old primary still runs."""

from __future__ import annotations

import time

from tests.faults.scenario import ScenarioContext, scenario, start_again
from tests.faults.world import FaultWorld
from tests.support.servers import wait_until

STEPS = ("installation", "incarnations", "pools", "redemptions", "quarantined", "batches", "codes", "dead_letters")
"""Tables that the steps of a recovery need: while one is locked, the recovery stops at that step."""


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


@scenario(missing=True, twin=True)
def recovery_killed_at_each_step(context: ScenarioContext) -> None:
    """All processes are killed while the recovery waits for a locked table; the next ones continue it."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        _lose_everything(world)
        for table in context.rng.sample(STEPS, 2 if context.rounds == 1 else len(STEPS)):
            _kill_programs(world)
            with world.locking(table):
                _start_programs(world)
                world.wait_until_blocked(table)
                world.fault(f"recovery killed at {table}")
                _kill_programs(world)
        at = time.monotonic()
        _start_programs(world)
        world.await_code(at)


@scenario(missing=True, twin=True, environment={"ISSUER_POSTGRES_TIMEOUT_S": "1"})
def recovery_frozen(context: ScenarioContext) -> None:
    """SIGSTOP of the recovering process: the others wait for a bounded time, and it does not continue after SIGCONT."""
    world = context.world
    first = world.apis[0]
    for _ in range(context.rounds):
        context.run_traffic()
        _lose_everything(world)
        table = context.rng.choice(STEPS[1:])
        with world.locking(table):
            first.begin()
            world.wait_until_blocked(table)
            world.fault("recovery frozen")
            first.freeze()
        at = time.monotonic()
        for process in (*world.apis[1:], *world.workers):
            process.begin()
        world.await_code(at)
        first.thaw()
        context.run_traffic(100)


@scenario(missing=True, twin=True)
def recovery_killed_at_random(context: ScenarioContext) -> None:
    """All processes, or Redis, are killed repeatedly some milliseconds after a loss."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        _wipe(world)
        for _ in range(3):
            time.sleep(context.rng.uniform(0, 0.6))
            world.fault("recovery killed")
            if context.rng.random() < 0.4:
                world.redis.kill9()
                if context.rng.random() < 0.3:
                    world.redis.wipe()
                world.redis.start()
            else:
                _kill_programs(world)
                _start_programs(world)
        world.await_code(time.monotonic())


@scenario(missing=True, twin=True)
def postgres_down_during_recovery(context: ScenarioContext) -> None:
    """Redis restarts empty while Postgres is down: not ready, never sold out; later the recovery runs by itself."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.fault("postgres down during recovery")
        world.postgres.kill9()
        _wipe(world)
        begun = time.monotonic()
        time.sleep(context.pick(0.3, 1.0))
        if world.traffic.seconds_to_code(begun) is not None:
            raise AssertionError("a Redis that is not blessed issued a code")
        start_again(world.postgres)
        if context.rng.random() < 0.5:
            time.sleep(context.rng.uniform(0, 0.3))
            world.fault("postgres killed during recovery")
            world.postgres.kill9()
            start_again(world.postgres)
        world.await_code(begun)


@scenario()
def postgres_down_while_redis_restarts(context: ScenarioContext) -> None:
    """Redis restarts with the same data under another run id while Postgres is down: blessed once Postgres is back."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.fault("postgres down while redis restarts")
        world.postgres.kill9()
        world.redis.kill9()
        world.redis.start()
        begun = time.monotonic()
        time.sleep(0.5)
        if world.traffic.seconds_to_code(begun) is not None:
            raise AssertionError("a Redis that is not blessed issued a code")
        start_again(world.postgres)
        world.await_code(begun)


@scenario(missing=True, through=("api-postgres", "worker-postgres"), apis=1)
def old_primary_keeps_running(context: ScenarioContext) -> None:
    """An old primary, its API process and its worker are cut off from Postgres while another server takes over.

    Both issue codes at the same time. The old one issues quarantined codes, until its backlog is full or its API
    process learns that the server was replaced.
    """
    world = context.world
    context.run_traffic()
    old_redis, old_apis, old_workers = world.redis, list(world.apis), list(world.workers)
    old_proxies = dict(world.proxies)
    at = world.fault("old primary keeps running")
    directions = ("up", "down")
    with old_proxies["api-postgres"].holding(*directions), old_proxies["worker-postgres"].holding(*directions):
        world.proxies.clear()
        world.redis = world.add_redis()
        api = world.add_api()
        world.add_worker()
        world.traffic.ports = [old_apis[0].port, api.port]
        wait_until(api.can_redeem, "the new primary is blessed")
        context.run_traffic()
        time.sleep(context.pick(0, 1))
    context.run_traffic()
    world.await_code(at)
    wait_until(lambda: not any(old.can_redeem() for old in old_apis), "the API process of the old primary is not ready")
    world.traffic.ports = [api.port]
    for process in (*old_apis, *old_workers, old_redis):
        process.kill9()
    context.run_traffic(100)


@scenario()
def api_restarted_while_redis_is_down(context: ScenarioContext) -> None:
    """API processes start while Redis is down, and become ready once it is back."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("api started without redis")
        world.redis.kill9()
        for api in world.apis:
            api.kill9()
            api.start()
        world.redis.start()
        world.await_code(at)


@scenario(missing=True, through=("api-postgres", "worker-postgres"), apis=1, environment={"ISSUER_MAX_BACKLOG": "60"})
def old_primary_reaches_its_bound(context: ScenarioContext) -> None:
    """The worker of an old primary reaches Postgres again, its API process does not: the worker must not ack."""
    world = context.world
    context.run_traffic(60)
    old_api, old_worker, old_redis = world.apis[0], world.workers[0], world.redis
    api_proxy, worker_proxy = world.proxies["api-postgres"], world.proxies["worker-postgres"]
    world.fault("old primary, its worker reconnected")
    with api_proxy.holding("up", "down"):
        with worker_proxy.holding("up", "down"):
            world.proxies.clear()
            world.redis = world.add_redis()
            api = world.add_api()
            world.add_worker()
            world.traffic.ports = [old_api.port, api.port]
            wait_until(api.can_redeem, "the new primary is blessed")
        context.run_traffic(400)
        time.sleep(1.5)
        context.run_traffic(400)
        world.traffic.ports = [api.port]
        old_api.kill9()
    old_worker.kill9()
    old_redis.kill9()
    world.await_code(time.monotonic())
