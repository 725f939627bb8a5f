"""Health, readiness and metrics while the stores are available, unavailable, and available again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from issuer.http.metrics.exposition import NAMES
from issuer.settings import Settings
from tests.support.api import REDEEM, Api, problem, running_app, until_status
from tests.support.databases import migrate_with_roles
from tests.support.servers import START_LIMIT_S, PostgresServer, RedisServer

BODY = {"batchid": str(uuid4()), "clientid": str(uuid4()), "customerid": str(uuid4())}


async def test_a_healthy_installation(settings: Settings) -> None:
    async with running_app(settings) as api:
        response = await api.client.get("/healthcheck")
        assert (response.status_code, response.json()) == (
            200,
            {"status": "healthy", "message": "System is operational"},
        )
        assert (await api.client.get("/livez")).json() == {"status": "alive"}
        ready = (await api.client.get("/readyz")).json()
        assert ready["status"] == ready["redis"] == ready["postgres"] == "ready"
        assert ready["worker"] == {"seen_at": None, "seen_seconds_ago": None, "lag_events": 0, "lag_seconds": 0.0}
        assert (await api.client.head("/livez")).status_code == 200


async def test_the_worker_is_shown_with_its_lag(settings: Settings) -> None:
    async with running_app(settings) as api:
        await api.owner.execute("INSERT INTO workers (name, seen_at) VALUES ('w1', now())")
        batch, client = await api.batch("A")
        await api.redeem(batch, client)
        # An earlier result may be returned for 0.25 s.
        async with asyncio.timeout(START_LIMIT_S):
            while (worker := (await api.client.get("/readyz")).json()["worker"])["lag_events"] == 0:
                await asyncio.sleep(0.02)
        assert worker["lag_events"] == 1
        assert worker["lag_seconds"] > 0
        assert worker["seen_seconds_ago"] < 60


async def refused(api: Api) -> bool:
    response = await api.client.post(REDEEM, json=BODY, headers=api.redeemer)
    return response.status_code == 503


@pytest.mark.timeout(180)
@pytest.mark.long
async def test_the_api_starts_without_redis_and_postgres_and_becomes_ready(tmp_path: Path) -> None:
    redis, postgres = RedisServer(tmp_path / "redis"), PostgresServer(tmp_path / "postgres", durable=False)
    settings = Settings(
        redis_url=SecretStr(redis.url()),
        database_url=SecretStr(postgres.url("issuer")),
        partitions=2,
        data_dir=tmp_path,
    )
    with postgres:
        postgres.psql("CREATE DATABASE issuer")
        await migrate_with_roles(settings)
    try:
        async with running_app(settings, ready=False) as api:
            assert (await api.client.get("/livez")).status_code == 200
            response = await api.client.get("/readyz")
            assert response.status_code == 503
            assert response.json()["redis"] == response.json()["postgres"] == "not ready"
            response = await api.client.get("/healthcheck")
            assert (response.status_code, response.json()["status"]) == (500, "unhealthy")
            problem(await api.client.post(REDEEM, json=BODY), 503, "not ready")
            problem(await api.get("/api/v1/batches", {"Authorization": "Bearer isk_unknown"}), 503)
            redis.start()
            postgres.start()
            await until_status(api, "/readyz", 200)
            await until_status(api, "/healthcheck", 200)
            api.admin, api.redeemer = await api.key("admin"), await api.key("redeem")
            batch, client = await api.batch("A", "B")
            assert (await api.redeem(batch, client)).json() == {"code": "A"}

            postgres.stop()
            assert (await api.redeem(batch, client)).json() == {"code": "B"}
            await until_status(api, "/healthcheck", 500)
            response = await api.client.get("/readyz")
            assert (response.status_code, response.json()["postgres"]) == (200, "not ready")
            assert problem(await api.get("/api/v1/batches"), 503)["code"] == "postgres_unavailable"
            assert 'issuer_ready{part="postgres"} 0.0' in (await api.get("/metrics")).text
            postgres.start()
            await until_status(api, "/healthcheck", 200)

            redis.stop()
            assert await refused(api)
            await until_status(api, "/readyz", 503)
            redis.start()
            await until_status(api, "/readyz", 200)
            problem(await api.redeem(batch, client), 404, "no code found")
    finally:
        redis.kill9()
        postgres.kill9()


REFUSALS = {
    "out of memory": ({"maxmemory": "1mb"}, {"maxmemory": "0"}),
    "too few replicas": ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_redis_that_refuses_writes_is_not_ready_until_it_accepts_them(
    settings: Settings, tmp_path: Path, refusal: str
) -> None:
    fault, repair = REFUSALS[refusal]
    with RedisServer(tmp_path / "redis") as redis, redis.client() as client:
        here = settings.model_copy(update={"redis_url": SecretStr(redis.url())})
        async with running_app(here) as api:
            batch, codes_of = await api.batch("A", "B")
            assert (await api.redeem(batch, codes_of)).status_code == 200
            client.config_set(*next(iter(fault.items())))
            problem(await api.redeem(batch, codes_of), 503, "not ready")
            await until_status(api, "/readyz", 503)
            await until_status(api, "/healthcheck", 500)
            text = (await api.get("/metrics")).text
            assert 'issuer_ready{part="redis"} 0.0' in text
            assert "issuer_backlog" in text
            client.config_set(*next(iter(repair.items())))
            await until_status(api, "/readyz", 200)
            assert (await api.redeem(batch, codes_of)).status_code == 200


async def test_a_redis_that_became_read_only_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis, redis.client() as client:
        here = settings.model_copy(update={"redis_url": SecretStr(redis.url())})
        async with running_app(here) as api:
            batch, codes_of = await api.batch("A", "B")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            problem(await api.redeem(batch, codes_of), 503, "not ready")
            await until_status(api, "/readyz", 503)
            client.execute_command("REPLICAOF", "NO", "ONE")
            await until_status(api, "/readyz", 200)
            assert (await api.redeem(batch, codes_of)).status_code == 200


async def test_the_metrics_are_the_documented_ones(settings: Settings) -> None:
    async with running_app(settings) as api:
        await api.batch("A")
        response = await api.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(response.text)}
        names = {name.removesuffix("_total") for name in NAMES} - {"issuer_worker_seen_seconds"}
        assert families.keys() == names
        assert {sample.labels["part"] for sample in families["issuer_ready"].samples} == {"redis", "postgres"}
        assert [sample.value for sample in families["issuer_role_may_change_ledger"].samples] == [0.0]


async def test_api_processes_sum_their_counters(settings: Settings, tmp_path: Path) -> None:
    shared = settings.model_copy(update={"metrics_dir": tmp_path / "metrics"})
    async with running_app(shared) as one:
        batch, client = await one.batch("A", "B", "C")
        async with running_app(shared) as two:
            for api in (one, two, two):
                await api.redeem(batch, client)
            two.services.tally.write()
            assert 'outcome="granted"} 3.0' in (await one.get("/metrics")).text
        # The counters of a process stay after its exit.
        assert 'outcome="granted"} 3.0' in (await one.get("/metrics")).text
        assert "issuer_redeem_seconds_count 3.0" in (await one.get("/metrics")).text
