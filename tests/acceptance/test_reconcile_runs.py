"""`issuer reconcile` over many redemptions: during them, after them, and with a missing row of the ledger."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest

from issuer.batches.batch import NewBatch
from issuer.batches.store import create_batch
from issuer.contract.outcomes import Outcome
from issuer.engine.engine import Engine
from issuer.settings import Settings
from issuer.storage.stores import Stores
from tests.support.environment import environment_of
from tests.support.installation import issuer_command
from tests.support.loading import A, B, codes, load
from tests.support.recovery import engine_of
from tests.support.worker_process import WorkerProcess, eventually

CUSTOMERS: Final = 1_000
LIMIT_S: Final = 240.0


class Reconcile:
    """The command, run as a process."""

    def __init__(self, settings: Settings) -> None:
        self._environment = environment_of(settings) | {"PYTHONFAULTHANDLER": "1"}

    async def __call__(self, *words: str) -> tuple[int, str]:
        """Return exit status and output."""
        done = await asyncio.to_thread(self._run, words)
        return done.returncode, done.stdout

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = subprocess.Popen(
            issuer_command("reconcile", *words), env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            out, _ = command.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            # The output then shows where it stands.
            command.send_signal(signal.SIGABRT)
            out, _ = command.communicate(timeout=LIMIT_S)
            pytest.fail(f"not ended after {LIMIT_S:.0f} s:\n{out}")
        return subprocess.CompletedProcess(command.args, command.returncode, out)

    async def holds(self) -> dict[UUID, tuple[int, int, int]]:
        """Check that the equation holds for every pool; return (ledger, backlog, issued) by client."""
        status, out = await self("--json")
        assert status == 0, out
        pools = json.loads(out)["pools"]
        assert all(not pool["problems"] and not pool["missing"] for pool in pools)
        assert all(
            pool["ledger"] + pool["backlog"] + pool["quarantined"] + pool["dead_letters"] + pool["void"]
            == pool["issued"]
            for pool in pools
        )
        return {UUID(pool["client_id"]): (pool["ledger"], pool["backlog"], pool["issued"]) for pool in pools}


async def redeem_all(engine: Engine, batch: UUID, count: int, observed: asyncio.Event) -> Counter[Outcome]:
    """Redeem all codes, with concurrent customers, for two clients in turn: the second half once `observed` is set."""
    outcomes: Counter[Outcome] = Counter()
    pools = [engine.pool_ref(batch, client) for client in (A, B)]

    async def customer(number: int) -> None:
        pool, customer_id = pools[number % 2], uuid.uuid4().bytes
        for redeemed in range(count // CUSTOMERS):
            if redeemed == count // CUSTOMERS // 2:
                await observed.wait()
            outcomes[(await engine.redeem(pool, customer_id)).outcome] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(CUSTOMERS):
            group.create_task(customer(number))
    return outcomes


@asynccontextmanager
async def without_row(stores: Stores, pool_id: int, seq: int) -> AsyncIterator[None]:
    """Delete a row of the ledger for the block, then restore it."""
    execute = stores.postgres.execute
    await execute("CREATE TABLE gone AS SELECT * FROM redemptions WHERE pool_id = $1 AND seq = $2", pool_id, seq)
    assert await execute("DELETE FROM redemptions WHERE pool_id = $1 AND seq = $2", pool_id, seq) == "DELETE 1"
    try:
        yield
    finally:
        await execute("INSERT INTO redemptions SELECT * FROM gone")
        await execute("DROP TABLE gone")


@pytest.mark.long
@pytest.mark.parametrize("count", [8_000, pytest.param(100_000, marks=pytest.mark.minutes)])
async def test_reconcile_holds_during_and_after_redemptions(
    settings: Settings, stores: Stores, tmp_path: Path, count: int
) -> None:
    settings = settings.model_copy(update={"redeem_timeout_ms": 10_000})
    batch = await create_batch(stores, NewBatch("run"), actor="test")
    half = count // 2
    await load(stores, batch, codes("A", half) + codes("B", half, B))
    reconcile = Reconcile(settings)
    with WorkerProcess(settings, tmp_path):
        async with engine_of(settings, stores) as engine:
            observed = asyncio.Event()
            running = asyncio.create_task(redeem_all(engine, batch.id, count, observed))
            while not running.done():
                balance = await reconcile.holds()
                if all(0 < balance[client][2] < half for client in (A, B)):
                    observed.set()
            assert await running == {Outcome.GRANTED: count}
        await eventually(lambda: _in_the_ledger(stores, count), "all redemptions are in the ledger")
        assert await reconcile.holds() == {A: (half, 0, half), B: (half, 0, half)}

        status, out = await reconcile()
        assert status == 0
        equation = (
            rf"ok +pool \d+: ledger {half} \+ backlog 0 \+ quarantined 0 \+ dead letters 0 = {half}, issued {half}"
        )
        assert len(re.findall(equation, out)) == 2
        pool_id = await stores.postgres.fetchval("SELECT id FROM pools WHERE client_id = $1", B)
        for seq in (half, half // 2, 1):
            async with without_row(stores, pool_id, seq):
                await check_is_named(reconcile, pool_id, seq, half - 1)
        await reconcile.holds()


async def _in_the_ledger(stores: Stores, count: int) -> bool:
    return bool(await stores.postgres.fetchval("SELECT count(*) FROM redemptions") == count)


async def check_is_named(reconcile: Reconcile, pool_id: int, seq: int, ledger: int) -> None:
    """The exit status is 1, text and JSON name the pool and the seq, and the other pool holds."""
    status, out = await reconcile()
    assert status == 1
    wrong, of_partition = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert of_partition.startswith("WRONG partition ")
    assert "1 serial is missing" in out
    assert f"pool {pool_id}: ledger {ledger} " in wrong
    assert f"missing seqs: {seq}\n" in out
    status, out = await reconcile("--json")
    pools: dict[int, Any] = {pool["pool_id"]: pool for pool in json.loads(out)["pools"]}
    assert status == 1
    assert {number: pool["missing"] for number, pool in pools.items() if not pool["holds"]} == {pool_id: [seq]}
