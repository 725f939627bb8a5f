"""Faults of Redis data: lost, or replaced by old ones."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from issuer.contract.keys import GROUP, partition_keys
from tests.faults.scenario import ScenarioContext, scenario
from tests.faults.world import PARTITIONS, FaultWorld
from tests.faults.world_database import wait_for_more
from tests.support.servers import wait_until


@scenario(missing=True, twin=True)
def redis_wiped(context: ScenarioContext) -> None:
    """All Redis data are lost: what Postgres has is restored from it, and what is only in the journals from those."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("redis wiped")
        world.redis.kill9()
        world.redis.wipe()
        world.redis.start()
        world.await_code(at)


_EMPTY = """
SELECT id FROM pools WHERE opened AND loaded < least(total, 1000 + greatest(
    (SELECT max(seq) FROM redemptions r WHERE r.pool_id = pools.id),
    (SELECT max(seq) FROM quarantined s WHERE s.pool_id = pools.id), 0))"""


@scenario(missing=True, twin=True)
def redis_wiped_worker_behind(context: ScenarioContext) -> None:
    """Many redemptions that the worker has not recorded are lost; only customers and journals have their codes."""
    world = context.world
    for _ in range(context.rounds):
        # With an empty pool and a frozen worker no code could be issued.
        wait_until(lambda: not world.sql(_EMPTY), "all pools are filled")
        world.freeze_worker()
        context.run_traffic()
        at = world.fault("redis wiped, worker behind")
        world.redis.kill9()
        world.redis.wipe()
        world.workers[0].thaw()
        world.redis.start()
        world.await_code(at)


@scenario(missing=True, twin=True)
def two_losses_in_a_row(context: ScenarioContext) -> None:
    """The second loss occurs before, or just after, the end of the first recovery; its codes are quarantined too."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("two losses in a row")
        for pause_s in (context.pick(0, 0.05, 0.3, 1.0), 0):
            world.redis.kill9()
            world.redis.wipe()
            world.redis.start()
            time.sleep(pause_s)
        world.await_code(at)


@scenario(missing=True, twin=True, redis_options={"appendfsync": "everysec"})
def everysec_tail_lost(context: ScenarioContext) -> None:
    """The append-only file loses acknowledged redemptions, as by a power cut; it may end in the middle of an entry."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("everysec, tail lost")
        world.redis.kill9()
        newest = max(_data(world).glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        length = newest.stat().st_size
        with newest.open("r+b") as file:
            file.truncate(max(0, length - context.rng.randint(0, min(length, 30_000))))
        world.redis.start()
        world.await_code(at)


@scenario(missing=True, twin=True, redis_options={"appendfsync": "everysec"})
def everysec_killed(context: ScenarioContext) -> None:
    """Only kill -9. The kernel has what Redis wrote, but on a slow disk Redis delays writes for up to two seconds."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("redis kill -9, everysec")
        world.redis.kill9()
        world.redis.start()
        world.await_code(at)


def _data(world: FaultWorld) -> Path:
    return world.redis.directory / "appendonlydir"


def _back_up(world: FaultWorld) -> Path:
    """Copy the files of the running server, like a snapshot of its disk."""
    copy = world.directory / "backup"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(_data(world), copy)
    return copy


def _restore(world: FaultWorld, copy: Path) -> None:
    world.redis.kill9()
    shutil.rmtree(_data(world))
    shutil.copytree(copy, _data(world))


@scenario(missing=True, twin=True)
def old_data_restored_ledger_ahead(context: ScenarioContext) -> None:
    """Old data are restored without an announcement. The ledger is ahead of them, which reveals it."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        copy = _back_up(world)
        context.run_traffic()
        wait_for_more(lambda: world.rows("redemptions"), 100, "the ledger is ahead of the copy")
        at = world.fault("old data restored, unannounced")
        _restore(world, copy)
        world.redis.start()
        world.await_code(at)


@scenario(missing=True, twin=True)
def old_data_restored_processes_ahead(context: ScenarioContext) -> None:
    """Old data are restored and the ledger is not ahead of them. The reports of the API processes reveal it."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.freeze_worker()
        time.sleep(0.1)
        copy = _back_up(world)
        context.run_traffic(150)
        at = world.fault("old data restored, worker behind")
        _restore(world, copy)
        world.redis.start()
        world.await_code(at)
        world.workers[0].thaw()


@scenario(missing=True)
def old_data_restored_and_announced(context: ScenarioContext) -> None:
    """The documented procedure: stop API and worker, restore the data, announce it, start API and worker."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.freeze_worker()
        copy = _back_up(world)
        context.run_traffic(150)
        at = world.fault("old data restored, announced")
        for process in (*world.apis, *world.workers):
            process.kill9()
        _restore(world, copy)
        world.redis.start()
        done = world.run_issuer("recover", "--restored")
        assert done.returncode == 0, done.stderr
        for process in (*world.apis, *world.workers):
            process.start()
        world.await_code(at)


@scenario(missing=True, twin=True, redis_options={"appendfsync": "everysec"})
def everysec_power_cut(context: ScenarioContext) -> None:
    """The whole host loses power: the file loses its tail, and no process survives that saw the lost redemptions."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.freeze_worker()
        context.run_traffic(100)
        world.fault("everysec, power cut")
        for process in (world.redis, *world.apis, *world.workers):
            process.kill9()
        newest = max(_data(world).glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        with newest.open("r+b") as file:
            file.truncate(max(0, newest.stat().st_size - context.rng.randint(2_000, 12_000)))
        world.redis.start()
        for process in (*world.apis, *world.workers):
            process.start()
        world.await_code(time.monotonic())


@scenario(missing=True, twin=True)
def redis_flushed(context: ScenarioContext) -> None:
    """FLUSHALL on the running server: all data are lost under the same run id."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("redis flushed")
        with world.redis.client() as client:
            client.flushall()
        world.await_code(at)


@scenario(missing=True)
def recovery_ordered_under_load(context: ScenarioContext) -> None:
    """`issuer recover --restored` under load: no code is issued during the recovery."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        world.fault("recovery ordered under load")
        done = world.run_issuer("recover", "--restored")
        assert done.returncode == 0, done.stderr
        world.await_code(time.monotonic())


@scenario()
def group_destroyed(context: ScenarioContext) -> None:
    """The consumer group is destroyed: the group created after it also delivers the older events."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic(100)
        world.freeze_worker()
        context.run_traffic(100)
        at = world.fault("consumer group destroyed")
        with world.redis.client() as client:
            for partition in range(PARTITIONS):
                client.xgroup_destroy(partition_keys(partition).stream, GROUP)
        world.redis.kill9()
        world.redis.start()
        world.workers[0].thaw()
        world.await_code(at)


@scenario(missing=True)
def restored_as_a_pair(context: ScenarioContext) -> None:
    """Postgres and Redis (or Postgres alone, with an empty Redis) are restored from backups of about the same time."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        redis_first = context.rng.random() < 0.5
        copy = _back_up(world) if redis_first else None
        dump = world.dump_database()
        context.run_traffic(20)
        copy = copy or _back_up(world)
        context.run_traffic()
        at = world.fault("Postgres and Redis restored as a pair")
        for process in (*world.apis, *world.workers):
            process.kill9()
        _restore(world, copy)
        if context.rng.random() < 0.3:
            world.redis.wipe()
        world.restore_database(dump)
        world.redis.start()
        done = world.run_issuer("recover", "--restored")
        assert done.returncode == 0, done.stderr
        for process in (*world.apis, *world.workers):
            process.start()
        world.await_code(at)
