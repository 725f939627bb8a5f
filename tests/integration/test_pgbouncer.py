"""Behind PgBouncer: its session mode works as it is installed, its other modes are refused in one line."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from issuer.ledger.reconcile import reconcile
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from issuer.storage.pooling import pooling_problem
from issuer.storage.postgres import SESSION
from sync_worker.writer import LedgerWriter
from tests.support.api import running_app
from tests.support.command import CommandInProcess, run_command
from tests.support.environment import environment_of
from tests.support.parameters import some_long
from tests.support.pgbouncer import PgBouncer
from tests.support.recording import drain
from tests.support.servers import PostgresServer

pytestmark = pytest.mark.long


def _behind(bouncer: PgBouncer, settings: Settings) -> Settings:
    url = bouncer.url(settings.database_url.get_secret_value())
    return settings.model_copy(update={"database_url": SecretStr(url)})


async def test_session_mode_works_as_it_is_installed(
    settings: Settings, postgres_server: PostgresServer, tmp_path: Path, empty_database_url: str
) -> None:
    with PgBouncer(tmp_path / "bouncer", postgres_server, "session") as bouncer:
        behind = _behind(bouncer, settings)
        assert await pooling_problem(behind) is None
        async with open_stores(behind, postgres_size=1) as stores, running_app(behind) as api:
            # Also on a connection that was used before.
            for _ in range(2):
                async with stores.postgres.acquire() as connection:
                    for name, value in SESSION.items():
                        assert await connection.fetchval("SELECT current_setting($1)", name) == value
            batch, client = await api.batch("A", "B")
            assert (await api.redeem(batch, client)).json()["code"] == "A"
            await drain(stores)
            writer = LedgerWriter(behind, stores.incarnations.lineage)
            assert stores.incarnations.blessed is not None
            assert (await writer.write(stores.incarnations.blessed, []))[0].inserted == 0
            await writer.close()
            assert (await reconcile(stores)).holds
        _, printed = await run_command(behind, "doctor")
        assert "ok    postgres sessions" in printed, printed
        new = behind.model_copy(update={"database_url": SecretStr(bouncer.url(empty_database_url))})
        assert (await run_command(new, "migrate"))[0] == 0


@pytest.mark.parametrize("mode", some_long(["transaction", "statement"]))
def test_other_modes_are_refused_in_one_line(
    mode: str,
    settings: Settings,
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = f"(PgBouncer: pool_mode = {mode}): locks would be lost; use pool_mode = session"
    with PgBouncer(tmp_path / "bouncer", postgres_server, mode) as bouncer:
        behind = _behind(bouncer, settings)
        issuer = CommandInProcess(behind, tmp_path, monkeypatch)
        for command in (["batches", "list"], ["keys", "list"], ["migrate"], ["serve", "--port", "0"], ["recover"]):
            done = issuer(*command)
            assert (done.status, done.err.count("\n")) == (1, 1), done
            assert refused in done.err
        done = issuer("doctor")
        assert done.status == 1
        assert refused in done.out
        worker, printed = asyncio.run(_worker(behind))
        assert worker == 1
        assert refused in printed
        assert "Traceback" not in printed


async def _worker(settings: Settings) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sync_worker", env=environment_of(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()
