"""An API process is killed between the inbox and the points: the worker does what is left, and it counts once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from issuer.access.secrets import SecretKeys, new_key
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.hooks.endpoint import HookEndpoint
from issuer.loyalty.hooks.endpoint_store import create_endpoint
from issuer.loyalty.hooks.events import ShopKind
from issuer.loyalty.member_store import create_member
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.grants import Process
from issuer.storage.postgres import close_pool, connect_pool
from issuer.storage.task_rows import TaskRows
from sync_worker.maintenance.hook_inbox import process_inbox
from tests.support.api_process import ApiProcess
from tests.support.environment import settings_as
from tests.support.points import CLIENT
from tests.support.servers import STOP_LIMIT_S
from tests.support.shop_deliveries import SECRETS, sample

pytestmark = pytest.mark.long

_SITE = """
import sys

if "issuer.processes.api" in sys.orig_argv:
    import os, signal
    from issuer.loyalty.hooks import processing

    def deadly(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(processing.HookProcessor, {step!r}, deadly)
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr(new_key())})


@pytest.mark.parametrize("step", ["process", "_settle"])
def test_a_delivery_whose_process_is_killed_counts_once(settings: Settings, tmp_path: Path, step: str) -> None:
    endpoint = asyncio.run(make_hook(settings))
    (tmp_path / "sitecustomize.py").write_text(_SITE.format(step=step))
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert settings.secret_key is not None
    key = settings.secret_key.get_secret_value()
    paid = sample(ShopKind.STANDARD, "order.paid")
    with ApiProcess(settings, tmp_path, PYTHONPATH=paths, ISSUER_SECRET_KEY=key) as api:
        url = api.wait_until_ready().url + endpoint.path
        answer = httpx.post(url, content=paid.raw, headers=paid.signed(), timeout=STOP_LIMIT_S)
        assert answer.status_code == 200, answer.text
        assert api.process is not None
        assert api.process.wait(STOP_LIMIT_S) == -9
    before, states, after = asyncio.run(continue_with_the_worker(settings))
    assert before == ([] if step == "process" else [("earn", 12)])
    assert states == ["received"]
    assert after == [("earn", 12)]


async def make_hook(settings: Settings) -> HookEndpoint:
    postgres = await connect_pool(settings, size=2)
    try:
        terms = parse_terms({"earn": {"points": 1, "per": "1.00", "currency": "EUR"}}, "points")
        program = await create_program(postgres, CLIENT, "Club", terms, actor="test")
        await create_member(postgres, program, {"email": "buyer@example.com"}, actor="test")
        made = await create_endpoint(
            postgres, SecretKeys.from_settings(settings), program, ShopKind.STANDARD,
            secret=SECRETS[ShopKind.STANDARD], actor="test",
        )  # fmt: skip
        return made.endpoint
    finally:
        await close_pool(postgres)


async def continue_with_the_worker(settings: Settings) -> tuple[list[Any], list[str], list[Any]]:
    """Return the entries before the worker, the states of the inbox then, and the entries after it has run twice."""
    async with open_stores(settings_as(settings, Process.WORKER)) as stores:
        entries = "SELECT op, points FROM entries ORDER BY account_id, seq"
        before = [tuple(row) for row in await stores.postgres.fetch(entries)]
        states = [row["state"] for row in await stores.postgres.fetch("SELECT state FROM hook_inbox")]
        rows, executor = TaskRows(stores), LoyaltyExecutor(stores.postgres, timeout_s=10.0)
        try:
            for _ in range(2):
                await process_inbox(stores, executor, rows, older_than_s=0.0)
        finally:
            await executor.aclose()
            await rows.aclose()
        left = await stores.postgres.fetchval("SELECT count(*) FROM hook_inbox WHERE state <> 'done'")
        assert left == 0
        return before, states, [tuple(row) for row in await stores.postgres.fetch(entries)]
