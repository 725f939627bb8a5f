"""A store that is set back in time while its address stays, and a copy of one that is used beside it."""

from __future__ import annotations

import time

from issuer.contract.keys import partition_keys
from tests.faults.redis_faults import promote, replica_of
from tests.faults.scenario import ScenarioContext, scenario
from tests.faults.world import FaultWorld
from tests.faults.world_database import wait_for_more
from tests.support.servers import PostgresServer, ServerProcess, wait_until

TO_POSTGRES = ("api-postgres", "worker-postgres")


def _make_standby_lag(context: ScenarioContext) -> PostgresServer:
    """Return a standby, not yet started, that lacks what the ledger has got meanwhile."""
    world = context.world
    context.run_traffic()
    standby = world.add_standby()
    wait_for_more(lambda: world.rows("redemptions"), 100, "the ledger is ahead of the standby")
    return standby


def _await_incident(world: FaultWorld) -> None:
    wait_until(lambda: bool(world.sql("SELECT FROM installation WHERE incident IS NOT NULL")), "an incident began")


@scenario(missing=True, hosts=1, through=TO_POSTGRES)
def postgres_fails_over_to_lagging_standby(context: ScenarioContext) -> None:
    """What the standby lacks was answered and acknowledged. An operator decides to go on with it."""
    world = context.world
    standby = _make_standby_lag(context)
    world.fault("postgres went back in time")
    world.postgres.kill9()
    standby.start()
    world.use_postgres(standby)
    _await_incident(world)
    # Codes are issued meanwhile.
    context.run_traffic(100)
    done = world.run_issuer("recover", "--restored")
    assert done.returncode == 0, done.stderr
    world.await_code(time.monotonic())
    context.run_traffic(100)


@scenario(through=TO_POSTGRES)
def postgres_lags_and_is_replaced_by_the_right_one(context: ScenarioContext) -> None:
    """An address leads to the standby for a while, and then to the primary again: nothing was recorded meanwhile."""
    world = context.world
    primary, standby = world.postgres, _make_standby_lag(context)
    standby.start()
    for _ in range(context.rounds):
        at = world.fault("postgres lags, the right one returns")
        world.use_postgres(standby)
        before = world.rows("redemptions")
        _await_incident(world)
        context.run_traffic(100)
        assert world.rows("redemptions") == before, "redemptions were recorded during an incident"
        world.use_postgres(primary)
        world.await_code(at)
        wait_for_more(lambda: world.rows("redemptions"), 100, "the worker records again")


@scenario(missing=True, twin=True)
def redis_went_back_under_its_run_id(context: ScenarioContext) -> None:
    """REPLICAOF a replica that was separated before, and back: connections, run_id and epoch are those of before."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic(100)
        replica = replica_of(world.redis, world)
        promote(replica)
        context.run_traffic()
        wait_for_more(lambda: _beat(world), 2, "heartbeats came after the separation")
        at = world.fault("redis went back under its run_id")
        with world.redis.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", str(replica.port))
            wait_until(lambda: client.info("replication").get("master_link_status") == "up", "the old data are there")
            client.execute_command("REPLICAOF", "NO", "ONE")
        world.await_code(at)
        replica.kill9()


def _beat(world: FaultWorld) -> int:
    with world.redis.client() as client:
        return int(client.hget(partition_keys(0).state, "beat") or 0)


@scenario()
def database_cloned(context: ScenarioContext) -> None:
    """A copy of the database is used with the same Redis: it is refused, and nothing is recorded there."""
    world = context.world
    for _ in range(context.rounds):
        context.run_traffic()
        url = world.clone_database()
        name = url.rpartition("/")[2]
        recorded = world.postgres.psql("SELECT count(*) FROM redemptions", name)
        world.fault("database cloned")
        api = world.add_api(wait=False, database_url=url)
        worker = world.add_worker(database_url=url)
        context.run_traffic()
        for process in (api, worker):
            _wait_for_log(process, "is a copy")
        assert not api.can_redeem(), "an API process uses a copy of the database"
        assert "WRONG database" in world.run_issuer("doctor", database_url=url).stdout
        context.run_traffic(100)
        world.remove(api, worker)
        assert world.postgres.psql("SELECT count(*) FROM redemptions", name) == recorded, "the copy has recorded"
        world.postgres.psql(f"DROP DATABASE {name} WITH (FORCE)")


def _wait_for_log(process: ServerProcess, text: str) -> None:
    wait_until(lambda: text in process.log.read_text(), f"{process.name} logs {text!r}")
