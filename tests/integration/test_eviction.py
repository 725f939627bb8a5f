"""A Redis that may evict keys: nothing is issued, and what it deleted is rebuilt."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from pydantic import SecretStr

from issuer.contract.outcomes import Outcome
from issuer.recovery.doctor import examine
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.lineage import IncidentError
from issuer.storage.server_watch import Stop
from tests.support.api import running_app, until_status
from tests.support.recovery import CLIENT, drain, engine_of, make_batch, ready, seqs
from tests.support.servers import RedisServer


async def test_a_policy_that_evicts_is_refused_where_config_is_forbidden(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "managed", options={"maxmemory-policy": "volatile-lru"}) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config", "-acl")
        managed = settings.model_copy(update={"redis_url": SecretStr(f"redis://app:pw@127.0.0.1:{server.port}/0")})
        with pytest.raises(IncidentError, match="noeviction, not volatile-lru"):
            async with open_stores(managed):
                pass
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
        async with open_stores(managed) as stores:
            checks = {check.name: check for check in await examine(managed, stores.postgres)}
            assert checks["maxmemory-policy"].ok


async def test_a_policy_that_evicts_stops_issuing_and_what_it_deleted_is_rebuilt(
    own_settings: Settings, own_redis: RedisServer
) -> None:
    async with open_stores(own_settings) as stores:
        batch_id = await make_batch(stores, 1_000, {"limits": [{"max": 1, "seconds": 86_400}]})
        async with engine_of(own_settings, stores) as engine:
            ref, customers = engine.pool_ref(batch_id, CLIENT), [uuid.uuid4().bytes for _ in range(50)]
            for _ in range(4):
                answers = await asyncio.gather(*[engine.redeem(ref, customer) for customer in customers])
                assert {answer.outcome for answer in answers} <= {Outcome.GRANTED, Outcome.LIMIT_REACHED}
                await drain(stores)
            with own_redis.client() as client:
                client.config_set("maxmemory-policy", "volatile-ttl")
                client.config_set("maxmemory", client.info("memory")["used_memory"] - 5_000)
                while client.exists(ref.batch.window_prefix + customers[0]):
                    client.echo("the server evicts before each command")
                    await asyncio.sleep(0.001)
                async with asyncio.timeout(30):
                    while Stop.EVICTION_POLICY not in stores.incarnations.watch.stops:
                        await asyncio.sleep(0.01)
                answers = await asyncio.gather(*[engine.redeem(ref, customer) for customer in customers])
                assert {answer.outcome for answer in answers} == {Outcome.NOT_READY}
                client.config_set("maxmemory", 0)
                client.config_set("maxmemory-policy", "noeviction")
            await ready(engine)
            answers = await asyncio.gather(*[engine.redeem(ref, customer) for customer in customers])
            assert {answer.outcome for answer in answers} == {Outcome.LIMIT_REACHED}
        assert await seqs(stores, "quarantined") == []


async def test_readiness_and_metrics_name_the_reason(own_settings: Settings, own_redis: RedisServer) -> None:
    async with running_app(own_settings) as api:
        assert (await api.client.get("/readyz")).json()["stops"] == []
        with own_redis.client() as client:
            client.config_set("maxmemory-policy", "allkeys-random")
            response = await until_status(api, "/readyz", 503)
            assert response.json()["stops"] == ["eviction_policy"]
            text = (await api.get("/metrics")).text
            assert 'issuer_stopped{reason="eviction_policy"} 1.0' in text
            assert 'issuer_stopped{reason="clock"} 0.0' in text
            client.config_set("maxmemory-policy", "noeviction")
        response = await until_status(api, "/readyz", 200)
        assert response.json()["stops"] == []
