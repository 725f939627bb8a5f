"""Exact recovery with API processes and a worker as they run in production, on hosts of their own."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from issuer.recovery.opening import open_stores
from issuer.settings import Auth, Settings
from tests.support.api_process import ApiProcess
from tests.support.databases import migrate_with_roles
from tests.support.recovery import CLIENT, make_batch
from tests.support.servers import PostgresServer, RedisServer, wait_until
from tests.support.worker_process import WorkerProcess


def prepare(settings: Settings, rules: dict[str, object] | None = None) -> UUID:
    async def work() -> UUID:
        async with open_stores(settings) as stores:
            return await make_batch(stores, 200, rules)

    return asyncio.run(work())


def ask(api: ApiProcess, batch_id: UUID, customer: str | None = None, key: str | None = None) -> tuple[int, Any]:
    """Redeem once. Return the status and the code."""
    answer = httpx.post(
        f"{api.url}/api/v1/code/redeem",
        json={"batchid": str(batch_id), "clientid": str(CLIENT), "customerid": customer or str(uuid.uuid4())},
        headers={"Idempotency-Key": key} if key else {},
        timeout=20,
    )
    return answer.status_code, answer.json().get("code")


def issued(api: ApiProcess, batch_id: UUID, count: int) -> list[str]:
    given = [ask(api, batch_id) for _ in range(count)]
    assert {status for status, _ in given} == {200}
    return [code for _, code in given]


@pytest.mark.long
def test_a_host_that_lost_power_is_behind_its_journal(
    journal_settings: Settings, own_redis: RedisServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """Postgres is unavailable, a copy of Redis' disk is made, the process is killed, and the copy comes back.

    Meanwhile a process that starts without Postgres cannot register: it issues nothing and says so, and the one that
    is registered continues.
    """
    database_url = SecretStr(own_postgres.url())
    settings = journal_settings.model_copy(update={"database_url": database_url, "auth": Auth.OFF})
    asyncio.run(migrate_with_roles(settings))
    batch_id = prepare(settings)
    with ApiProcess(settings, tmp_path) as one:
        one.wait_until_ready()
        first = issued(one, batch_id, 3)
        own_postgres.stop()
        with ApiProcess(settings, tmp_path) as two:
            wait_until(lambda: _answers(two), "the second process answers")
            assert ask(two, batch_id)[0] == 503
            state = httpx.get(f"{two.url}/readyz", timeout=20)
            assert state.status_code == 503
            assert "Postgres is unavailable" in state.json()["registration"]
            first += issued(one, batch_id, 5)
        shutil.copytree(own_redis.directory / "appendonlydir", tmp_path / "copy")
        second = issued(one, batch_id, 20)
        assert one.process is not None
        one.process.kill()
        one.process.wait()
        own_redis.kill9()
    own_redis.wipe()
    shutil.copytree(tmp_path / "copy", own_redis.directory / "appendonlydir")
    own_redis.start()
    own_postgres.start()
    with ApiProcess(settings, tmp_path) as three:
        three.wait_until_ready()
        assert own_postgres.psql("SELECT verdict FROM incarnations ORDER BY epoch DESC LIMIT 1").strip() == "exact"
        wait_until(lambda: ask(three, batch_id)[0] != 503 or _top_up(settings), "codes are issued again")
        third = issued(three, batch_id, 20)
    assert not set(second) & set(third)
    assert not set(first) & set(third)
    assert own_postgres.psql("SELECT count(*) FROM anomalies").strip() == "0"


def _top_up(settings: Settings) -> bool:
    from issuer.pools.top_up import top_up

    async def work() -> None:
        async with open_stores(settings) as stores:
            await top_up(stores)

    asyncio.run(work())
    return False


def _answers(api: ApiProcess) -> bool:
    try:
        return httpx.get(f"{api.url}/livez", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.long
def test_two_hosts_with_journals_and_a_worker_without_lose_nothing(
    journal_settings: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """The worker is frozen while Redis is wiped, and may be the one that recovers."""
    settings = journal_settings.model_copy(update={"auth": Auth.OFF})
    batch_id = prepare(settings, {"maxpercustomer": 1})
    hosts = [{"ISSUER_JOURNAL_DIR": str(tmp_path / host), "ISSUER_HOST_NAME": host} for host in ("a", "b")]
    customers = [str(uuid.uuid4()) for _ in range(5)]
    with (
        ApiProcess(settings, tmp_path, **hosts[0]) as a,
        ApiProcess(settings, tmp_path, **hosts[1]) as b,
        WorkerProcess(settings, tmp_path / "w", environment={"ISSUER_JOURNAL": "off"}) as worker,
    ):
        for api in (a, b):
            api.wait_until_ready()
        worker.freeze()
        first = [ask(api, batch_id, customer, "k") for api, customer in zip((a, b, a, b, a), customers, strict=True)]
        assert {status for status, _ in first} == {200}
        own_redis.restart_empty()
        worker.thaw()
        for api in (a, b):
            api.wait_until_ready()
        assert [ask(b, batch_id, customer, "k") for customer in customers] == first
        assert {ask(a, batch_id, customer)[0] for customer in customers} == {403}

    async def found() -> tuple[Any, ...]:
        async with open_stores(settings) as stores:
            row = await stores.postgres.fetchrow(
                "SELECT (SELECT count(*) FROM redemptions), (SELECT count(*) FROM quarantined),"
                " (SELECT verdict FROM incarnations ORDER BY epoch DESC LIMIT 1)"
            )
            assert row is not None
            return tuple(row)

    assert asyncio.run(found()) == (5, 0, "exact")
