"""A generation job requested over HTTP, on real processes: it is finished although its workers are killed."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from issuer.settings import Auth, Settings
from issuer.storage.stores import Stores
from tests.support.api_process import ApiProcess
from tests.support.loading import A, check_agreement
from tests.support.worker_process import WorkerProcess, eventually

COUNT = 170_000


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_job_is_finished_although_its_workers_are_killed(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"auth": Auth.OFF})
    with ApiProcess(settings, tmp_path) as api:
        await asyncio.to_thread(api.wait_until_ready)
        async with httpx.AsyncClient(base_url=api.url) as client:
            batch = (await client.post("/api/v1/batches", json={"name": "Summer"})).json()["id"]
            body = {"count": COUNT, "client_id": str(A), "pattern": "SUMMER-####-####"}
            response = await client.post(f"/api/v1/batches/{batch}/codes/generate", json=body)
            assert response.status_code == 202
            job = response.headers["location"]

            async def read_job() -> Any:
                return (await client.get(job)).json()

            async def more_than(made: int) -> bool:
                return bool((await read_job())["made"] > made)

            async def done() -> bool:
                return bool((await read_job())["state"] == "done")

            for least in (0, 60_000):
                with WorkerProcess(settings, tmp_path / str(least)) as worker:
                    await eventually(partial(more_than, least), "the worker generates codes")
                    worker.kill9()
                assert not await done()
            with WorkerProcess(settings, tmp_path / "last"):
                await eventually(done, "the job is done")
            assert (await read_job())["made"] == COUNT
    assert (await check_agreement(stores, UUID(batch), A)).loaded == COUNT
