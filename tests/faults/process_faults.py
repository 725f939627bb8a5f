"""API processes, workers, loaders and Postgres die or are frozen."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.faults.play import FaultStage, scenario, start_again
from tests.faults.world import FaultWorld, wait_for_more
from tests.support.servers import wait_until


@scenario()
def api_killed(stage: FaultStage) -> None:
    """kill -9 of an API process: customers with keys ask another one and get the same code."""
    world = stage.world
    for _ in range(3 * stage.rounds):
        stage.play_on(200)
        world.fault("api kill -9")
        api = stage.rng.choice(world.apis)
        api.kill9()
        time.sleep(stage.pick(0, 0.2))
        api.start()


@scenario()
def api_stopped(stage: FaultStage) -> None:
    """SIGTERM under load: what is in flight is answered, new requests are refused, the process ends in time."""
    world = stage.world
    for _ in range(2 * stage.rounds):
        stage.play_on(200)
        world.fault("api SIGTERM")
        api = stage.rng.choice(world.apis)
        api.stop()
        api.start()


@scenario()
def worker_killed(stage: FaultStage) -> None:
    """kill -9 of the worker at any moment."""
    world = stage.world
    for _ in range(4 * stage.rounds):
        stage.play_on(150)
        world.fault("worker kill -9")
        world.workers[0].kill9()
        world.workers[0].start()


@scenario()
def worker_killed_before_insert(stage: FaultStage) -> None:
    """It has read entries, and holds them, when it dies."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        with world.locking("redemptions"):
            world.wait_until_wanted("redemptions")
            world.fault("worker kill -9 before insert")
            world.workers[0].kill9()
        world.workers[0].start()


@scenario()
def worker_killed_before_ack(stage: FaultStage) -> None:
    """The ledger has its entries, the stream has them too."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        with world.locking("redemptions"):
            world.wait_until_wanted("redemptions")
            world.redis.freeze()
            world.fault("worker kill -9 before ack")
        # Its commit reaches Postgres, its ack does not reach Redis.
        wait_until(lambda: not world.sql(_IN_TRANSACTION), "the worker has committed")
        world.workers[0].kill9()
        world.redis.thaw()
        world.workers[0].start()


_IN_TRANSACTION = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'issuer sync_worker' AND xact_start IS NOT NULL"""


@scenario(workers=2, environment={"ISSUER_POSTGRES_TIMEOUT_S": "1"})
def two_workers_fight(stage: FaultStage) -> None:
    """One is frozen with entries in hand, the other takes them over, the first goes on where it was."""
    world = stage.world
    frozen, other = world.workers
    for _ in range(stage.rounds):
        stage.play_on()
        with world.locking("redemptions"):
            world.wait_until_wanted("redemptions")
            world.fault("two workers, one frozen")
            frozen.freeze()
        time.sleep(stage.pick(0.5, 3))
        frozen.thaw()
        other.kill9()
        other.start()


@scenario()
def postgres_killed(stage: FaultStage) -> None:
    """kill -9 of Postgres: redemptions go on, the worker catches up."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on()
        at = world.fault("postgres kill -9")
        world.postgres.kill9()
        time.sleep(stage.pick(0, 0.5))
        start_again(world.postgres)
        world.await_good(at)


@scenario(environment={"ISSUER_MAX_BACKLOG": "80"})
def postgres_away_beyond_the_backlog(stage: FaultStage) -> None:
    """Redemptions go on until the backlog is full, then 503; nothing is lost and the worker catches up by itself."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on(60)
        world.fault("postgres away, backlog full")
        world.postgres.stop()
        wait_for_more(lambda: world.traffic.refused("backlog_full"), 30, "the backlog is full")
        world.postgres.start()
        world.await_good(time.monotonic())


@scenario()
def backlog_lowered_under_load(stage: FaultStage) -> None:
    """`issuer max-backlog` while customers redeem and the worker is behind."""
    world = stage.world
    for _ in range(stage.rounds):
        for bound in (stage.rng.randint(50, 300), 2_000):
            stage.play_on(150)
            world.fault("max_backlog changed")
            done = world.run_issuer("max-backlog", str(bound))
            assert done.returncode == 0, done.stderr
            world.await_good(time.monotonic())


@scenario(dead_letters=True)
def poisoned_entries(stage: FaultStage) -> None:
    """Entries that are no events of ours, among good ones: they are kept aside and hold nobody up."""
    world = stage.world
    poison: list[dict[str | bytes, str | bytes]] = [
        {"v": "1", "e": "1", "t": "x", "c": "nonsense", "n": "1", "d": b"\xff\xfe"},
        {"hello": "world"},
        {"v": "1", "e": "1", "t": "1", "c": "0" * 32, "n": "1", "d": b"R 999999999999999999999999 1 1\n\x00\x01A"},
        {"v": "2", "e": "1", "t": "1", "c": "0" * 32, "n": "0", "d": b""},
    ]
    for _ in range(stage.rounds):
        for fields in poison:
            stage.play_on(60)
            world.fault("poisoned entry")
            with world.redis.client() as client:
                client.xadd(f"issuer:{{p{stage.rng.randrange(4):02d}}}:stream", fields)


@scenario()
def loader_killed(stage: FaultStage) -> None:
    """`issuer preload` killed anywhere, then run again: every code of the file is there, once."""
    world = stage.world
    for number in range(stage.rounds):
        file = _write_codes(world.directory / f"codes-{number}.csv", number, world)
        for _ in range(3):
            loader = subprocess.Popen(_preload(world, file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(stage.rng.uniform(0.4, 2.0))
            world.fault("loader kill -9")
            loader.kill()
            loader.wait()
        _finish_load(world, file)


@scenario()
def loader_killed_at_each_step(stage: FaultStage) -> None:
    """Killed while it copies, while it numbers, and before Redis has the codes."""
    world = stage.world
    for number in range(stage.rounds):
        file = _write_codes(world.directory / f"codes-{number}.csv", 100 + number, world)
        for table in ("codes", "pools", "audit_log"):
            with world.locking(table):
                loader = subprocess.Popen(_preload(world, file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                _wait_for_loader(loader, table, world)
                world.fault("loader kill -9")
                loader.kill()
                loader.wait()
        _finish_load(world, file)


def _wait_for_loader(loader: subprocess.Popen[bytes], table: str, world: FaultWorld) -> None:
    wait_until(lambda: loader.poll() is not None or world.someone_waits_for(table), f"the loader is at {table}")


def _write_codes(file: Path, number: int, world: FaultWorld) -> Path:
    lines = ["client_id,code"]
    lines += [f"{world.shops[0].clients[0]},more-{number}-{n}" for n in range(15_000)]
    file.write_text("\n".join(lines) + "\n")
    return file


def _preload(world: FaultWorld, file: Path) -> list[str]:
    return world.issuer_command("preload", str(file), "--batch-id", str(world.shops[0].batch_id))


def _finish_load(world: FaultWorld, file: Path) -> None:
    done = subprocess.run(_preload(world, file), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    like = file.read_text().splitlines()[1].partition(",")[2].rpartition("-")[0] + "-%"
    (there,) = world.sql("SELECT count(*) AS n FROM codes WHERE code LIKE $1", like)
    assert there["n"] == 15_000, f"{there['n']} of 15000 codes"
    (seqs,) = world.sql(
        "SELECT count(*) AS n, max(c.seq) AS top, max(p.total) AS total FROM codes c JOIN pools p ON p.id = c.pool_id"
        " WHERE p.batch_id = $1 AND p.client_id = $2", world.shops[0].batch_id, world.shops[0].clients[0],
    )  # fmt: skip
    assert seqs["n"] == seqs["top"] == seqs["total"], f"the seqs have gaps: {dict(seqs)}"


_SKEWED = """
import os, time
_offset = float(os.environ["CLOCK_OFFSET_S"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _offset
time.time_ns = lambda: _time_ns() + int(_offset * 1e9)
"""


@scenario(apis=1)
def clocks_of_api_processes_off(stage: FaultStage) -> None:
    """One an hour ahead, one an hour behind: only Redis' clock counts."""
    world = stage.world
    site = world.directory / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SKEWED)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    skewed = [
        world.add_api(environment={"PYTHONPATH": path, "CLOCK_OFFSET_S": str(offset_s)}) for offset_s in (3600, -3600)
    ]
    world.traffic.ports = world.ports()
    for _ in range(2 * stage.rounds):
        stage.play_on()
        at = world.fault("api clock off")
        api = stage.rng.choice(skewed)
        api.kill9()
        api.environment["CLOCK_OFFSET_S"] = str(-int(api.environment["CLOCK_OFFSET_S"]))
        api.start()
        world.await_good(at)


@scenario(workers=2, environment={"ISSUER_POSTGRES_TIMEOUT_S": "1"})
def two_workers_killed(stage: FaultStage) -> None:
    """Two workers share the streams, and now the one, now the other dies."""
    world = stage.world
    for _ in range(4 * stage.rounds):
        stage.play_on(150)
        world.fault("worker kill -9, two of them")
        worker = stage.rng.choice(world.workers)
        worker.kill9()
        worker.start()


@scenario(environment={"ISSUER_POOL_HIGH_WATER": "40"})
def pools_run_dry(stage: FaultStage) -> None:
    """Redis has a few codes of each pool, and nobody is there to bring more: refilling, never sold out."""
    world = stage.world
    for _ in range(stage.rounds):
        stage.play_on(100)
        world.fault("pools run dry")
        world.workers[0].kill9()
        wait_for_more(
            lambda: world.traffic.refused("pool_refilling") + world.traffic.refused("sold_out"),
            30,
            "the pools are empty",
        )
        world.workers[0].start()
        world.await_good(time.monotonic())
