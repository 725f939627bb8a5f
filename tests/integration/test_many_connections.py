"""10,000 customers at one API process, each with its own connection."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from issuer.settings import Auth, Settings
from issuer.storage.stores import Stores
from tests.support.api_process import ApiProcess
from tests.support.crowd import Crowd, CrowdRequest
from tests.support.recovery import CLIENT, make_batch

CONNECTIONS = 10_000


@pytest.mark.long
async def test_ten_thousand_connections_are_served(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= CONNECTIONS + 500, f"this test needs {CONNECTIONS + 500} open files (ulimit -n), the limit is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    batch_id = await make_batch(stores, CONNECTIONS)
    api = ApiProcess(settings.model_copy(update={"auth": Auth.OFF}), tmp_path, ISSUER_REDEEM_TIMEOUT_MS="10000",
                     ISSUER_MAX_WAITING=str(CONNECTIONS), ISSUER_RECEIVE_TIMEOUT_S="60")  # fmt: skip
    try:
        with api:
            await asyncio.to_thread(api.wait_until_ready)
            async with Crowd(api.url, "", connections=CONNECTIONS) as crowd:
                answers = await crowd.ask([CrowdRequest(batch_id, CLIENT, UUID(int=n + 1)) for n in range(CONNECTIONS)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Counter(answer.status for answer in answers) == {200: CONNECTIONS}
    assert len({answer.text for answer in answers}) == CONNECTIONS
