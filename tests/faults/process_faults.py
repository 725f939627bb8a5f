"""Faults of processes: API processes, workers, loaders and Postgres are killed or frozen."""

from __future__ import annotations

import os
import time
from pathlib import Path

from issuer.contract.keys import partition_keys
from tests.faults.scenario import ScenarioContext, scenario, start_again
from tests.faults.world import FaultWorld
from tests.faults.world_database import wait_for_more
from tests.support.forked_processes import StartedProcess
from tests.support.servers import wait_until


@scenario()
def api_killed(context: ScenarioContext) -> None:
    """kill -9 of an API process: customers repeat their requests with the key at another one and get the same code."""
    world = context.world
    for _ in range(3 * context.rounds):
        context.run_traffic(200)
        world.fault("api kill -9")
        api = context.rng.choice(world.apis)
        api.kill9()
        time.sleep(context.pick(0, 0.2))
        api.start()


@scenario()
def api_stopped(context: ScenarioContext) -> None:
    """SIGTERM under load: what is in flight is answered, new requests are refused, the process exits in time."""
    world = context.world
    for _ in range(2 * context.rounds):
        context.run_traffic(200)
        world.fault("api SIGTERM")
        api = context.rng.choice(world.apis)
        api.stop()
        api.start()


@scenario()
def worker_killed(context: ScenarioContext) -> None:
    """kill -9 of the worker at a random moment."""
    world = context.world
    for _ in range(4 * context.rounds):
        context.run_traffic(150)
        world.fault("worker kill -9")
        world.workers[0].kill9()
        world.workers[0].start()


@scenario()
def worker_killed_before_insert(context: ScenarioContext) -> None:
    """The worker is killed between reading entries and inserting them."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        with world.locking("redemptions"):
            world.wait_until_blocked("redemptions")
            world.fault("worker kill -9 before insert")
            world.workers[0].kill9()
        world.workers[0].start()


@scenario()
def worker_killed_before_ack(context: ScenarioContext) -> None:
    """The worker is killed between commit and ack: its entries are in the ledger and in the stream."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        with world.locking("redemptions"):
            world.wait_until_blocked("redemptions")
            world.redis.freeze()
            world.fault("worker kill -9 before ack")
        # The commit reaches Postgres; the ack cannot reach the frozen Redis.
        wait_until(lambda: not world.sql(_IN_TRANSACTION), "the worker has committed")
        world.workers[0].kill9()
        world.redis.thaw()
        world.workers[0].start()


_IN_TRANSACTION = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'issuer sync_worker' AND xact_start IS NOT NULL"""


@scenario(workers=2, environment={"ISSUER_POSTGRES_TIMEOUT_S": "1"})
def two_workers_one_frozen(context: ScenarioContext) -> None:
    """One worker is frozen while it holds entries, the other takes them over, then the first one continues."""
    world = context.world
    frozen, other = world.workers
    for _ in range(context.rounds):
        context.run_traffic()
        with world.locking("redemptions"):
            world.wait_until_blocked("redemptions")
            world.fault("two workers, one frozen")
            frozen.freeze()
        time.sleep(context.pick(0.5, 3))
        frozen.thaw()
        other.kill9()
        other.start()


@scenario()
def postgres_killed(context: ScenarioContext) -> None:
    """kill -9 of Postgres: redemptions continue and the worker catches up."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        at = world.fault("postgres kill -9")
        world.postgres.kill9()
        time.sleep(context.pick(0, 0.5))
        start_again(world.postgres)
        world.await_code(at)


@scenario(environment={"ISSUER_MAX_BACKLOG": "80"})
def postgres_down_until_backlog_full(context: ScenarioContext) -> None:
    """Redemptions continue until the backlog is full, then 503; nothing is lost and the worker catches up."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic(60)
        world.fault("postgres down, backlog full")
        world.postgres.stop()
        wait_for_more(lambda: world.traffic.refused("backlog_full"), 30, "the backlog is full")
        world.postgres.start()
        world.await_code(time.monotonic())


@scenario()
def backlog_lowered_under_load(context: ScenarioContext) -> None:
    """`issuer max-backlog` while customers redeem and the worker is behind."""
    world = context.world
    for _ in range(context.rounds):
        for bound in (context.rng.randint(50, 300), 2_000):
            context.run_traffic(150)
            world.fault("max_backlog changed")
            done = world.run_issuer("max-backlog", str(bound))
            assert done.returncode == 0, done.stderr
            world.await_code(time.monotonic())


@scenario(dead_letters=True)
def unreadable_entries(context: ScenarioContext) -> None:
    """Unreadable entries among valid events become dead letters and do not delay the others."""
    world = context.world
    unreadable: list[dict[str | bytes, str | bytes]] = [
        {"v": "1", "e": "1", "t": "x", "c": "nonsense", "n": "1", "d": b"\xff\xfe"},
        {"hello": "world"},
        {"v": "1", "e": "1", "t": "1", "c": "0" * 32, "n": "1", "d": b"R 999999999999999999999999 1 1\n\x00\x01A"},
        {"v": "2", "e": "1", "t": "1", "c": "0" * 32, "n": "0", "d": b""},
    ]
    for _ in range(context.rounds):
        for fields in unreadable:
            context.run_traffic(60)
            world.fault("unreadable entry")
            with world.redis.client() as client:
                client.xadd(partition_keys(context.rng.randrange(4)).stream, fields)


@scenario()
def loader_killed(context: ScenarioContext) -> None:
    """`issuer preload` is killed at a random moment and run again: every code of the file is loaded once."""
    world = context.world
    for number in range(context.rounds):
        file = _write_codes(world.directory / f"codes-{number}.csv", number, world)
        for _ in range(3):
            loader = world.start_issuer(*_preload(world, file))
            time.sleep(context.rng.uniform(0, 1.2))
            world.fault("loader kill -9")
            loader.kill()
            loader.wait()
        _finish_load(world, file)


@scenario()
def loader_killed_at_each_step(context: ScenarioContext) -> None:
    """`issuer preload` is killed while it copies, while it assigns seqs, and before the codes are in Redis."""
    world = context.world
    for number in range(context.rounds):
        file = _write_codes(world.directory / f"codes-{number}.csv", 100 + number, world)
        for table in ("codes", "pools", "audit_intake"):
            with world.locking(table):
                loader = world.start_issuer(*_preload(world, file))
                _wait_for_loader(loader, table, world)
                world.fault("loader kill -9")
                loader.kill()
                loader.wait()
        _finish_load(world, file)


def _wait_for_loader(loader: StartedProcess, table: str, world: FaultWorld) -> None:
    wait_until(lambda: loader.poll() is not None or world.has_blocked_process(table), f"the loader waits for {table}")


def _write_codes(file: Path, number: int, world: FaultWorld) -> Path:
    lines = ["client_id,code"]
    lines += [f"{world.batches[0].clients[0]},more-{number}-{n}" for n in range(15_000)]
    file.write_text("\n".join(lines) + "\n")
    return file


def _preload(world: FaultWorld, file: Path) -> tuple[str, ...]:
    return ("preload", str(file), "--batch-id", str(world.batches[0].batch_id))


def _finish_load(world: FaultWorld, file: Path) -> None:
    done = world.run_issuer(*_preload(world, file))
    assert done.returncode == 0, done.stderr
    like = file.read_text().splitlines()[1].partition(",")[2].rpartition("-")[0] + "-%"
    (found,) = world.sql("SELECT count(*) AS n FROM codes WHERE code LIKE $1", like)
    assert found["n"] == 15_000, f"{found['n']} of 15000 codes"
    (seqs,) = world.sql(
        "SELECT count(*) AS n, max(c.seq) AS top, max(p.total) AS total FROM codes c JOIN pools p ON p.id = c.pool_id"
        " WHERE p.batch_id = $1 AND p.client_id = $2", world.batches[0].batch_id, world.batches[0].clients[0],
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
def api_clocks_skewed(context: ScenarioContext) -> None:
    """One clock is an hour ahead, one an hour behind: only the clock of Redis counts."""
    world = context.world
    site = world.directory / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(_SKEWED)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    skewed = [
        world.add_api(environment={"PYTHONPATH": path, "CLOCK_OFFSET_S": str(offset_s)}) for offset_s in (3600, -3600)
    ]
    world.traffic.ports = world.ports()
    for _ in range(2 * context.rounds):
        context.run_traffic()
        at = world.fault("api clock skewed")
        api = context.rng.choice(skewed)
        api.kill9()
        api.environment["CLOCK_OFFSET_S"] = str(-int(api.environment["CLOCK_OFFSET_S"]))
        api.start()
        world.await_code(at)


@scenario(workers=2, environment={"ISSUER_POSTGRES_TIMEOUT_S": "1"})
def two_workers_killed(context: ScenarioContext) -> None:
    """Two workers share the streams, and either of them is killed."""
    world = context.world
    for _ in range(4 * context.rounds):
        context.run_traffic(150)
        world.fault("worker kill -9, two of them")
        worker = context.rng.choice(world.workers)
        worker.kill9()
        worker.start()


@scenario(environment={"ISSUER_POOL_HIGH_WATER": "40"})
def pools_exhausted_in_redis(context: ScenarioContext) -> None:
    """The pools in Redis are used up while no worker tops them up: `pool refilling`, never sold out."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic(100)
        world.fault("pools exhausted in redis")
        world.workers[0].kill9()
        wait_for_more(
            lambda: world.traffic.refused("pool_refilling") + world.traffic.refused("sold_out"),
            30,
            "the pools are empty",
        )
        world.workers[0].start()
        world.await_code(time.monotonic())
