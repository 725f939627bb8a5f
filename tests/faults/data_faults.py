"""Redis loses its data or gets old ones back."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from issuer.contract.keys import GROUP, partition_keys
from tests.faults.play import FaultStage, scenario
from tests.faults.world import PARTITIONS, FaultWorld, wait_for_more
from tests.support.servers import wait_until

JOURNAL = {"ISSUER_JOURNAL_DIR": "{directory}/journal"}


def _wipe(stage: FaultStage) -> None:
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("redis wiped")
        world.redis.kill9()
        world.redis.wipe()
        world.redis.start()
        world.await_good(at)


@scenario(missing=True)
def redis_wiped(stage: FaultStage) -> None:
    """All data gone: everything comes back from Postgres but what had not got there."""
    _wipe(stage)


@scenario(loss=True, environment=JOURNAL)
def redis_wiped_with_journal(stage: FaultStage) -> None:
    """With the journal what had not got to Postgres comes back too; the audit excuses nothing."""
    _wipe(stage)


_EMPTY = """
SELECT id FROM pools WHERE opened AND loaded < least(total, 1000 + greatest(
    (SELECT max(seq) FROM redemptions r WHERE r.pool_id = pools.id),
    (SELECT max(seq) FROM quarantined s WHERE s.pool_id = pools.id), 0))"""


def _wipe_behind(stage: FaultStage) -> None:
    """As `_wipe`, with a worker that is behind by many redemptions."""
    world = stage.world
    for _ in range(stage.rounds):
        # With an empty pool and the worker asleep nothing could be handed out.
        wait_until(lambda: not world.sql(_EMPTY), "all pools are filled")
        world.freeze_worker()
        stage.play_on()
        at = world.fault("redis wiped, worker behind")
        world.redis.kill9()
        world.redis.wipe()
        world.workers[0].thaw()
        world.redis.start()
        world.await_good(at)


@scenario(missing=True)
def redis_wiped_worker_behind(stage: FaultStage) -> None:
    """Many redemptions are known to nobody but their customers."""
    _wipe_behind(stage)


@scenario(loss=True, environment=JOURNAL)
def redis_wiped_worker_behind_with_journal(stage: FaultStage) -> None:
    """They are known to the journal."""
    _wipe_behind(stage)


@scenario(missing=True)
def two_losses_in_a_row(stage: FaultStage) -> None:
    """The second loss comes before, or just after, the first recovery is done; its codes are quarantined as well."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("two losses in a row")
        for pause_s in (stage.pick(0, 0.05, 0.3, 1.0), 0):
            world.redis.kill9()
            world.redis.wipe()
            world.redis.start()
            time.sleep(pause_s)
        world.await_good(at)


def _lose_tail(stage: FaultStage) -> None:
    """What a power cut under everysec does to the newest part of the append-only file."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("everysec, tail lost")
        world.redis.kill9()
        newest = max(_data(world).glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        length = newest.stat().st_size
        with newest.open("r+b") as file:
            file.truncate(max(0, length - stage.rng.randint(0, min(length, 30_000))))
        world.redis.start()
        world.await_good(at)


@scenario(missing=True, redis_options={"appendfsync": "everysec"})
def everysec_tail_lost(stage: FaultStage) -> None:
    """Acknowledged redemptions are gone from the file, cut at any byte."""
    _lose_tail(stage)


@scenario(loss=True, redis_options={"appendfsync": "everysec"}, environment=JOURNAL)
def everysec_tail_lost_with_journal(stage: FaultStage) -> None:
    """The journal has what the file lost."""
    _lose_tail(stage)


@scenario(missing=True, redis_options={"appendfsync": "everysec"})
def everysec_killed(stage: FaultStage) -> None:
    """kill -9 alone. The kernel has what Redis wrote; on a slow disk Redis puts writing off, for up to two seconds."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("redis kill -9, everysec")
        world.redis.kill9()
        world.redis.start()
        world.await_good(at)


def _data(world: FaultWorld) -> Path:
    return world.redis.directory / "appendonlydir"


def _back_up(world: FaultWorld) -> Path:
    """A copy of the files of a running server, as a snapshot of its disk has them."""
    copy = world.directory / "backup"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(_data(world), copy)
    return copy


def _restore(world: FaultWorld, copy: Path) -> None:
    world.redis.kill9()
    shutil.rmtree(_data(world))
    shutil.copytree(copy, _data(world))


def _ledger(world: FaultWorld) -> int:
    return int(world.sql("SELECT count(*) AS n FROM redemptions")[0]["n"])


@scenario(missing=True)
def old_data_restored_ledger_ahead(stage: FaultStage) -> None:
    """Nobody says that these data are old, under fsync always. The ledger gives them away."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        copy = _back_up(world)
        stage.play_on()
        wait_for_more(lambda: _ledger(world), 100, "the ledger is ahead of the copy")
        at = world.fault("old data restored, unannounced")
        _restore(world, copy)
        world.redis.start()
        world.await_good(at)


@scenario(missing=True)
def old_data_restored_processes_ahead(stage: FaultStage) -> None:
    """The ledger knows no more than the old data. What the API processes have seen gives them away."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.freeze_worker()
        time.sleep(0.1)
        copy = _back_up(world)
        stage.play_on(150)
        at = world.fault("old data restored, worker behind")
        _restore(world, copy)
        world.redis.start()
        world.await_good(at)
        world.workers[0].thaw()


@scenario(missing=True)
def old_data_restored_and_announced(stage: FaultStage) -> None:
    """The documented procedure: API and worker stopped, data restored, announced, started again."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.freeze_worker()
        copy = _back_up(world)
        stage.play_on(150)
        at = world.fault("old data restored, announced")
        for process in (*world.apis, *world.workers):
            process.kill9()
        _restore(world, copy)
        world.redis.start()
        done = world.run_issuer("recover", "--restored")
        assert done.returncode == 0, done.stderr
        for process in (*world.apis, *world.workers):
            process.start()
        world.await_good(at)


@scenario(missing=True, redis_options={"appendfsync": "everysec"})
def everysec_power_cut(stage: FaultStage) -> None:
    """The whole host loses power: the file loses its tail, and no process is left that could tell."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.freeze_worker()
        stage.play_on(100)
        world.fault("everysec, power cut")
        for process in (world.redis, *world.apis, *world.workers):
            process.kill9()
        newest = max(_data(world).glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        with newest.open("r+b") as file:
            file.truncate(max(0, newest.stat().st_size - stage.rng.randint(2_000, 12_000)))
        world.redis.start()
        for process in (*world.apis, *world.workers):
            process.start()
        world.await_good(time.monotonic())


@scenario(missing=True)
def redis_flushed(stage: FaultStage) -> None:
    """FLUSHALL on the running server: the same run id, and nothing left."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("redis flushed")
        with world.redis.client() as client:
            client.flushall()
        world.await_good(at)


@scenario(missing=True)
def recovery_ordered_under_load(stage: FaultStage) -> None:
    """`issuer recover --restored` while everybody redeems: in between nothing is handed out."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        world.fault("recovery ordered under load")
        done = world.run_issuer("recover", "--restored")
        assert done.returncode == 0, done.stderr
        world.await_good(time.monotonic())


@scenario()
def group_destroyed(stage: FaultStage) -> None:
    """The consumer group is gone when Redis comes back: events that were there before a new one are delivered too."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on(100)
        world.freeze_worker()
        stage.play_on(100)
        at = world.fault("consumer group destroyed")
        with world.redis.client() as client:
            for partition in range(PARTITIONS):
                client.xgroup_destroy(partition_keys(partition).stream, GROUP)
        world.redis.kill9()
        world.redis.start()
        world.workers[0].thaw()
        world.await_good(at)


@scenario(missing=True)
def restored_as_a_pair(stage: FaultStage) -> None:
    """Postgres and Redis (or Postgres alone, and an empty Redis) from backups of about the same time, and announced."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        redis_first = stage.rng.random() < 0.5
        copy = _back_up(world) if redis_first else None
        dump = world.dump_database()
        stage.play_on(20)
        copy = copy or _back_up(world)
        stage.play_on()
        at = world.fault("Postgres and Redis restored as a pair")
        for process in (*world.apis, *world.workers):
            process.kill9()
        _restore(world, copy)
        if stage.rng.random() < 0.3:
            world.redis.wipe()
        world.restore_database(dump)
        world.redis.start()
        done = world.run_issuer("recover", "--restored")
        assert done.returncode == 0, done.stderr
        for process in (*world.apis, *world.workers):
            process.start()
        world.await_good(at)
