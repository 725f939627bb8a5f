"""Runs of the reconciliation: asked for by an operator, made by the worker, kept with their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

import orjson
import structlog

from issuer.access import audit
from issuer.instants import show_instant
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.reconciliation.whole import reconcile_whole
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import Pool, unavailable_translated
from issuer.storage.stores import Stores
from issuer.storage.task_rows import RowWork

log = structlog.get_logger()

TASK: Final = "reconcile"
MAX_KEPT: Final = 100
"""Runs that are kept: the newest."""


class RunState(StrEnum):
    """How far a run is. HOLDS, WRONG: it is finished, and everything balances or does not.

    FAILED: it could not be made, and the worker tries it again as every failed row.
    """

    WAITING = "waiting"
    RUNNING = "running"
    FAILED = "failed"
    HOLDS = "holds"
    WRONG = "wrong"


class RunNotFoundError(LookupError):
    """No run has this id."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `result`: of a finished one, as `WholeReconciliation.summary` returns it; in a list it is left out.

    `started_at`: of the latest attempt, if the worker was stopped meanwhile. `error`: why that failed.
    """

    id: int
    actor: str
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    holds: bool | None
    error: str | None
    result: Mapping[str, Any] | None

    @property
    def state(self) -> RunState:
        if self.holds is not None:
            return RunState.HOLDS if self.holds else RunState.WRONG
        if self.error is not None:
            return RunState.FAILED
        return RunState.WAITING if self.started_at is None else RunState.RUNNING

    def to_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in ("requested_at", "started_at", "finished_at")}
        shown = {name: None if time is None else show_instant(time) for name, time in times.items()}
        return {"id": self.id, "state": self.state, "actor": self.actor, **shown, "error": self.error}


_COLUMNS: Final = f"""id, actor, requested_at, started_at, finished_at, holds, (
  SELECT error FROM task_rows t WHERE t.task = '{TASK}' AND t.row_id = reconciliations.id::text AND t.failures > 0
) AS error"""
# A request while a run is open gets that one: two at once would say the same.
_REQUEST: Final = f"""
INSERT INTO reconciliations (actor) VALUES ($1) ON CONFLICT ((true)) WHERE finished_at IS NULL DO NOTHING
RETURNING {_COLUMNS}"""
_OPEN: Final = f"SELECT {_COLUMNS} FROM reconciliations WHERE finished_at IS NULL"
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM reconciliations WHERE $1::bigint IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"""
_ONE: Final = f"SELECT {_COLUMNS}, result::text FROM reconciliations WHERE id = $1"
_LAST: Final = f"""
SELECT {_COLUMNS}, result::text FROM reconciliations WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT 1"""
_DUE: Final = "SELECT id FROM reconciliations WHERE finished_at IS NULL"
_START: Final = "UPDATE reconciliations SET started_at = clock_timestamp() WHERE id = $1"
_FINISH: Final = """
WITH forgotten AS (
  DELETE FROM reconciliations
  WHERE id < (SELECT id FROM reconciliations ORDER BY id DESC OFFSET $4::bigint - 1 LIMIT 1))
UPDATE reconciliations SET finished_at = clock_timestamp(), holds = $2, result = $3::text::jsonb WHERE id = $1"""


async def request_run(postgres: Pool, *, actor: str, act: Act[Run] = UNKEPT) -> Run:
    """Ask for a run, or return the one that is open already. Raises PostgresUnavailableError."""
    async with act.transaction(postgres) as connection:
        row = None
        while row is None:
            row = await connection.fetchrow(_REQUEST, actor)
            if row is not None:
                subject, detail = f"reconciliation:{row['id']}", dict[str, Any]()
                await audit.record(
                    connection, actor=actor, action="reconciliation.request", subject=subject, detail=detail
                )
            else:
                # None, too, if the worker has finished it meanwhile.
                row = await connection.fetchrow(_OPEN)
        run = _run(row)
        await act.keep(connection, run)
    return run


async def list_runs(postgres: Pool, *, limit: int = 100, cursor: str | None = None) -> Page[Run]:
    """Return one page of the runs, newest first, without results.

    Raises InvalidCursorError, PostgresUnavailableError.
    """
    (before,) = decode_cursor("reconciliations", cursor, (int,)) if cursor else (None,)
    async with unavailable_translated():
        rows = await postgres.fetch(_PAGE, before, limit + 1)
    runs = [_run(row) for row in rows]
    return Page.of(runs, limit, lambda last: encode_cursor("reconciliations", (last.id,)))


async def find_run(postgres: Pool, run_id: int) -> Run:
    """Return a run with its result. Raises RunNotFoundError, PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_ONE, run_id)
    if row is None:
        raise RunNotFoundError(f"no run {run_id}")
    return _run(row)


async def last_run(postgres: Pool) -> Run | None:
    """Return the newest run that is finished, with its result. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_LAST)
    return None if row is None else _run(row)


async def work_on_runs(stores: Stores, rows: RowWork) -> None:
    """Make the run that is open, if no other worker does. Stopped at any point, it is made again.

    Raises RedisUnavailableError and PostgresUnavailableError.
    """
    async with unavailable_translated():
        found = await stores.postgres.fetch(_DUE)
    for row in await rows.due(TASK, {str(one["id"]): 0 for one in found}):
        await rows.work(TASK, row, partial(_make, stores, int(row)))


async def _make(stores: Stores, run_id: int) -> None:
    async with unavailable_translated():
        await stores.postgres.execute(_START, run_id)
    result = await reconcile_whole(stores)
    kept = orjson.dumps(result.summary(), default=str).decode()
    async with unavailable_translated():
        await stores.postgres.execute(_FINISH, run_id, result.holds, kept, MAX_KEPT)
    report = log.info if result.holds else log.error
    report("reconciled", run=run_id, holds=result.holds, pools=len(result.ledger.pools))


def _run(row: Any) -> Run:
    result = orjson.loads(row["result"]) if "result" in row and row["result"] is not None else None
    return Run(
        row["id"], row["actor"], row["requested_at"], row["started_at"], row["finished_at"], row["holds"], row["error"],
        result,
    )  # fmt: skip
