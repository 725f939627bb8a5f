"""A job asked for over HTTP, on real processes: it outlives the workers that are killed while they are at it."""

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


@pytest.mark.timeout(180)
async def test_a_job_outlives_its_workers(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"auth": Auth.OFF})
    with ApiProcess(settings, tmp_path) as api:
        await asyncio.to_thread(api.wait_until_ready)
        async with httpx.AsyncClient(base_url=api.url) as client:
            batch = (await client.post("/api/v1/batches", json={"name": "Summer"})).json()["id"]
            body = {"count": COUNT, "client_id": str(A), "pattern": "SUMMER-####-####"}
            response = await client.post(f"/api/v1/batches/{batch}/codes/generate", json=body)
            assert response.status_code == 202
            job = response.headers["location"]

            async def shown() -> Any:
                return (await client.get(job)).json()

            async def more_than(made: int) -> bool:
                return bool((await shown())["made"] > made)

            async def done() -> bool:
                return bool((await shown())["state"] == "done")

            for least in (0, 60_000):
                with WorkerProcess(settings, tmp_path / str(least)) as worker:
                    await eventually(partial(more_than, least), "the worker is at it")
                    worker.kill9()
                assert not await done()
            with WorkerProcess(settings, tmp_path / "last"):
                await eventually(done, "the job is done")
            assert (await shown())["made"] == COUNT
    assert (await check_agreement(stores, UUID(batch), A)).loaded == COUNT
