"""`issuer up` with rows that kill the worker: more of them than restarts are allowed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from issuer.processes.children import MAX_CRASHES
from tests.support.failpoints import DEADLY, plant_deadly_batches
from tests.support.installation import Installation
from tests.support.worker_process import eventually

DEATHS = ("exit", "segfault", "kill")
ROWS = MAX_CRASHES + 2


@pytest.mark.long
async def test_rows_that_kill_the_worker_do_not_exhaust_its_restarts(tmp_path: Path) -> None:
    environment = plant_deadly_batches(tmp_path / "site")
    with Installation(tmp_path / "up", environment=environment) as installation:
        url = json.loads((installation.data / "running.json").read_text())["database_url"]
        connection = await asyncpg.connect(url)
        try:
            for number in range(ROWS):
                await connection.execute(
                    "INSERT INTO batches (partition, id, name) VALUES (0, $1, $2)",
                    f"00000000-0000-4000-8000-{number:012d}", f"{DEADLY} {DEATHS[number % len(DEATHS)]}",
                )  # fmt: skip
            # Of the highest id: it is listed behind all of them.
            last = "ffffffff-ffff-4fff-8fff-ffffffffffff"
            await connection.execute("INSERT INTO batches (partition, id, name) VALUES (0, $1, 'good')", last)

            async def others_are_processed() -> bool:
                assert installation.process is not None
                assert installation.process.poll() is None, installation.logged
                done = await connection.fetchval("SELECT redis_revision = 1 FROM batches WHERE id = $1", last)
                rows = await connection.fetchval(
                    "SELECT count(*) FROM task_rows WHERE error LIKE '%crashed while it processed this row'"
                )
                return bool(done) and rows == ROWS

            await eventually(others_are_processed, "every deadly row is recorded and the good one processed")
        finally:
            await connection.close()
        assert installation.logged.count("child exited; restarting it") > MAX_CRASHES
        done = await asyncio.to_thread(installation.command, "maintenance", "list", "--json")
        assert {row["task"] for row in json.loads(done.stdout)} == {"batch-sync"}
        assert len(json.loads(done.stdout)) == ROWS
