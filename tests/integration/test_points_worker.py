"""What the worker does for points, and what `issuer reconcile` finds: both on real tables."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import uuid4

import pytest

from issuer.loyalty.account import AccountState
from issuer.loyalty.apply import apply
from issuer.loyalty.operations import Earn, Operation, PlaceHold, Spend, Sweep
from issuer.loyalty.outcome import Applied, Refusal
from issuer.loyalty.program import Program
from issuer.loyalty.reconcile import reconcile_points
from issuer.loyalty.sweeping import TASK, sweep_due
from issuer.recovery.opening import GuardedStores
from issuer.settings import Settings
from issuer.storage.task_rows import TaskRows
from tests.support.points import PointsDesk, earlier_buckets, points_desk

# As if the points had been earned and held two days earlier.
AGE: Final = f"""
WITH a AS (UPDATE accounts SET due_at = due_at - interval '2 days', touched_at = touched_at - interval '2 days',
             buckets = {earlier_buckets(2)} WHERE due_at < '9999-12-30'),
h AS (UPDATE points_holds SET expires_at = expires_at - interval '2 days')
UPDATE pending_points
SET available_at = available_at - interval '2 days', expires_at = expires_at - interval '2 days'"""


async def done(desk: PointsDesk, account_id: int, operation: Operation) -> Applied:
    outcome = await desk.executor.execute(account_id, operation)
    assert isinstance(outcome, Applied), outcome
    return outcome


async def test_the_sweep_does_what_is_due_and_skips_an_account_that_fails(
    settings: Settings, stores: GuardedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TaskRows(stores)
    async with points_desk(settings, pending_days=1, expiry={"days": 1}) as desk:
        pending, held, failing, idle = await desk.accounts(4)
        for account_id in (pending, held, failing):
            await done(desk, account_id, Earn(10))
        await desk.postgres.execute(AGE)
        assert await sweep_due(desk.postgres, desk.executor, rows) == 3
        # They became available and had expired by then.
        assert await desk.row(pending) == (3, 0, 0, 0, 0)
        await done(desk, idle, Earn(1))
        now = (await done(desk, held, Earn(10))).state.touched_at
        await done(desk, failing, Earn(10))
        await desk.postgres.execute(
            "UPDATE pending_points SET available_at = now(); UPDATE accounts SET due_at = now() WHERE pending > 0"
        )
        assert await sweep_due(desk.postgres, desk.executor, rows) == 3
        await done(desk, held, PlaceHold(uuid4(), 10, now + timedelta(hours=1)))
        await desk.postgres.execute(AGE)

        def fail(state: AccountState, operation: Operation, now: datetime, program: Program) -> Applied | Refusal:
            if state.id == failing and isinstance(operation, Sweep):
                raise RuntimeError("a bug")
            return apply(state, operation, now, program)

        with monkeypatch.context() as patch:
            patch.setattr("issuer.loyalty.transaction.apply", fail)
            assert await sweep_due(desk.postgres, desk.executor, rows) == 2
            assert await sweep_due(desk.postgres, desk.executor, rows) == 0
        # The hold has expired; the points in it are as old as they were.
        assert (await desk.row(held))[1:] == (10, 0, 0, 0)
        recorded = "SELECT row_id, error FROM task_rows WHERE task = $1"
        assert [tuple(row) for row in await desk.postgres.fetch(recorded, TASK)] == [
            (str(failing), "RuntimeError: a bug")
        ]
        await desk.postgres.execute("UPDATE task_rows SET retry_at = now()")
        assert await sweep_due(desk.postgres, desk.executor, rows) == 1
        assert await desk.postgres.fetch(recorded, TASK) == []
        assert (await reconcile_points(desk.postgres)).problems == []
    await rows.aclose()


async def test_reconciliation_names_every_way_in_which_an_account_does_not_balance(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        accounts = await desk.accounts(7)
        for account_id in accounts:
            await done(desk, account_id, Earn(10))
            outcome = await desk.executor.execute(account_id, Spend(3))
            assert not isinstance(outcome, Refusal)
        audit = await reconcile_points(desk.postgres)
        assert (audit.holds, audit.accounts, audit.entries) == (True, 7, 14)
        for statement, account_id in zip(
            (
                "UPDATE accounts SET buckets = jsonb_set(buckets, '{0,1}', '8') WHERE id = $1",
                "DELETE FROM entries WHERE account_id = $1 AND seq = 1",
                "UPDATE entries SET points = points + 1 WHERE account_id = $1 AND seq = 2",
                "UPDATE accounts SET available = available + 1 WHERE id = $1",
                "DELETE FROM entries WHERE account_id = $1 AND seq = 2",
                "UPDATE entries SET op = 'gift' WHERE account_id = $1 AND seq = 1",
            ),
            accounts,
            strict=False,
        ):
            await desk.postgres.execute(statement, account_id)
        audit = await reconcile_points(desk.postgres)
        assert (audit.holds, audit.broken) == (False, 6)
        problems = {problem.account_id: problem.problem for problem in audit.problems}
        assert "buckets have other points" in problems[accounts[0]]
        assert "1 gaps in its seqs" in problems[accounts[1]]
        assert "1 entries change the figures by other than their points" in problems[accounts[2]]
        assert "its figures are not those of its latest entry" in problems[accounts[3]]
        assert "the latest entry is 1, not 2" in problems[accounts[4]]
        assert "1 entries of an unknown kind" in problems[accounts[5]]


async def test_reconciliation_names_buckets_that_no_operation_leaves(settings: Settings) -> None:
    """Their points may add up nevertheless, and no type of a column refuses them."""
    forever = 253_402_128_000_000
    cases = [
        *((buckets, "cannot be read") for buckets in (
            "{}", "null", "42", "[42]", "[null]", "[[]]", "[[1, 7, 1]]", '[[1, "7"]]', '[["1", 7]]', "[[1, 7.5]]",
            "[[1.5, 7]]", "[[1, 7], [2, 0]]", "[[1, 8], [2, -1]]", "[[-1, 7]]", f"[[{forever + 1}, 7]]", "[[1, 1e20]]",
        )),
        *((buckets, "not in the order of their expiry") for buckets in ("[[1, 3], [1, 4]]", "[[2, 3], [1, 4]]")),
        *((buckets, "due at another instant") for buckets in ("[[1, 7]]", f"[[{forever}, 7]]")),
    ]  # fmt: skip
    async with points_desk(settings, expiry={"days": 30}) as desk:
        accounts = await desk.accounts(len(cases) + 1)
        for account_id in accounts:
            await done(desk, account_id, Earn(7))
        for account_id, (buckets, _) in zip(accounts, cases, strict=False):
            await desk.postgres.execute("UPDATE accounts SET buckets = $2 WHERE id = $1", account_id, buckets)
        audit = await reconcile_points(desk.postgres)
        assert audit.broken == len(cases)
        problems = {problem.account_id: problem.problem for problem in audit.problems}
        for account_id, (buckets, problem) in zip(accounts, cases, strict=False):
            assert problem in problems[account_id], buckets
