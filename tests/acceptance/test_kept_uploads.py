"""Uploads to whole API processes: twice at the same time, and killed between the commit and the answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from issuer.recovery.opening import open_stores
from issuer.settings import Auth, Settings
from issuer.storage.stores import Stores
from tests.support.api import UPLOAD
from tests.support.api_process import ApiProcess
from tests.support.loading import A, check_agreement, codes, csv_of
from tests.support.servers import RedisServer, wait_until
from tests.support.worker_process import WorkerProcess

COUNT = 20_000
FILE = csv_of(codes("A", COUNT))


async def upload(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        # httpx draws another boundary for every request.
        return await client.post(
            UPLOAD, files={"file": ("codes.csv", FILE)}, data={"batch_name": "Summer"}, headers=headers
        )


@pytest.mark.long
async def test_two_processes_that_load_one_file_load_each_code_once(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    off = settings.model_copy(update={"auth": Auth.OFF})
    with ApiProcess(off, tmp_path) as one, ApiProcess(off, tmp_path) as two:
        urls = [process.wait_until_ready().url for process in (one, two)]
        reports = [answer.json() for answer in await asyncio.gather(*map(upload, urls))]
    reports.sort(key=lambda report: -report["loaded"])
    first, second = reports
    assert (first["loaded"], second["loaded"], second["duplicates_in_other_batches"]) == (COUNT, 0, COUNT)
    assert second["batch_id"] is None
    assert second["other_batches"] == [{"batch_id": first["batch_id"], "batch_name": "Summer", "codes": COUNT}]
    await check_agreement(stores, UUID(first["batch_id"]), A)
    assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 1


async def _waits_for_commit(stores: Stores) -> bool:
    return bool(
        await stores.postgres.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%INTO kept_answers%')"
        )
    )


async def until(stores: Stores, condition: Any, what: str) -> None:
    async with asyncio.timeout(60):
        while not await condition(stores):
            await asyncio.sleep(0.01)


async def _is_committed(stores: Stores) -> bool:
    return bool(await stores.postgres.fetchval("SELECT count(*) FROM kept_answers"))


@pytest.mark.long
async def test_an_upload_killed_before_its_answer_is_repeated(settings: Settings, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as own_redis:
        off = settings.model_copy(update={"auth": Auth.OFF, "redis_url": SecretStr(own_redis.url())})
        async with open_stores(off) as stores:
            await _kill_and_repeat(off, stores, own_redis, tmp_path)


async def _kill_and_repeat(off: Settings, stores: Stores, own_redis: RedisServer, tmp_path: Path) -> None:
    with ApiProcess(off, tmp_path) as api:
        api.wait_until_ready()
        async with stores.postgres.acquire() as connection:
            # Keep the upload from its commit until Redis is frozen: then it stops behind the commit.
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("LOCK TABLE kept_answers IN SHARE MODE")
            sent = asyncio.create_task(upload(api.url, **{"Idempotency-Key": "order-1"}))
            await until(stores, _waits_for_commit, "the upload is about to commit")
            own_redis.freeze()
            await transaction.rollback()
        await until(stores, _is_committed, "the upload is committed")
        assert api.process is not None
        api.process.kill()
        with pytest.raises(httpx.HTTPError):
            await sent
    own_redis.thaw()
    with ApiProcess(off, tmp_path) as api, WorkerProcess(off, tmp_path):
        api.wait_until_ready()
        again = await upload(api.url, **{"Idempotency-Key": "order-1"})
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true"), again.text
        assert again.json()["loaded"] == COUNT
        assert await stores.postgres.fetchval("SELECT count(*) FROM batches") == 1
        assert await stores.postgres.fetchval("SELECT count(*) FROM codes") == COUNT
        batch = again.json()["batch_id"]
        body = {"batchid": batch, "clientid": str(A), "customerid": str(A)}
        wait_until(
            lambda: httpx.post(f"{api.url}/api/v1/code/redeem", json=body).json() == {"code": "A0000001"},
            "the worker has loaded the codes",
        )
