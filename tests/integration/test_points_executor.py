"""The gathering executor on a real Postgres: one transaction for many operations, each decided as if it were alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest

from issuer.loyalty.account import EntryOp
from issuer.loyalty.bounds import MAX_POINTS
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.hooks.order_notes import CountRefund, RefundCountedError, has_counted
from issuer.loyalty.operations import (
    Adjust,
    CaptureHold,
    Earn,
    MoveKind,
    NewMove,
    Operation,
    OrderRef,
    PlaceHold,
    ReleaseHold,
    Spend,
    Sweep,
    TakeBack,
    Undo,
)
from issuer.loyalty.outcome import Applied, Refusal, RefusalCode, Transferred
from issuer.loyalty.program import ProgramState
from issuer.loyalty.program_store import change_program
from issuer.loyalty.reconcile import reconcile_points
from issuer.loyalty.terms import EarnRate
from issuer.loyalty.waiting import PointsBusyError
from issuer.settings import Settings
from tests.support.points import CLIENT, PointsDesk, points_desk


async def applied(desk: PointsDesk, account_id: int, operation: Operation) -> Applied:
    outcome = await desk.executor.execute(account_id, operation)
    assert isinstance(outcome, Applied), outcome
    return outcome


async def refused(desk: PointsDesk, account_id: int, operation: Operation) -> RefusalCode:
    outcome = await desk.executor.execute(account_id, operation)
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


async def test_operations_that_arrive_together_share_a_transaction_and_are_decided_one_by_one(
    settings: Settings,
) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()
        await applied(desk, account, Earn(70))
        outcomes = await asyncio.gather(*(desk.executor.execute(account, Spend(1)) for _ in range(200)))
        granted = [outcome for outcome in outcomes if isinstance(outcome, Applied)]
        refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        assert len(granted) == 70
        assert Counter(refusal.code for refusal in refusals) == {RefusalCode.INSUFFICIENT_POINTS: 130}
        assert [one.entry.seq for one in granted if one.entry is not None] == list(range(2, 72))
        assert await desk.row(account) == (71, 0, 0, 0, 0)
        stamps = await desk.postgres.fetchval("SELECT count(DISTINCT occurred_at) FROM entries WHERE op = 'spend'")
        assert stamps <= 2  # The first spend began a transaction by itself; the others shared the next one.
        audit = await reconcile_points(desk.postgres)
        assert (audit.holds, audit.accounts, audit.entries) == (True, 1, 71)


async def test_every_kind_of_operation_is_stored_and_read_back(settings: Settings) -> None:
    async with points_desk(settings, expiry={"months": 12}) as desk:
        account, other = await desk.accounts(2)
        order = OrderRef("shop", "A-1", 10_000)
        earned = await applied(desk, account, Earn(order=order))
        assert earned.state.available == 100
        again = await applied(desk, account, Earn(order=order))
        assert (again.replayed, again.entry) == (True, earned.entry)
        differs = Earn(order=OrderRef("shop", "A-1", 9_999))
        assert await refused(desk, account, differs) is RefusalCode.ORDER_DIFFERS
        assert await refused(desk, other, Earn(order=order)) is RefusalCode.ORDER_DIFFERS
        hold = uuid4()
        until = datetime.now(UTC) + timedelta(hours=1)
        await applied(desk, account, PlaceHold(hold, 30, until))
        captured = await applied(desk, account, CaptureHold(hold, 20))
        assert [entry.op for entry in captured.entries] == [EntryOp.CAPTURE, EntryOp.RELEASE]
        assert await refused(desk, account, ReleaseHold(hold)) is RefusalCode.HOLD_SETTLED
        assert captured.entry is not None
        undone = await applied(desk, account, Undo(captured.entry.seq, 5))
        assert undone.state.available == 85
        assert undone.state.buckets == earned.state.buckets[:0] + tuple(
            bucket._replace(points=85) for bucket in earned.state.buckets
        )
        assert await refused(desk, account, Undo(captured.entry.seq, 16)) is RefusalCode.ALREADY_REVERSED
        taken = await applied(desk, account, TakeBack(order, 10_000))
        assert (taken.state.available, taken.state.debt) == (0, 15)
        assert await refused(desk, account, TakeBack(order)) is RefusalCode.ALREADY_REVERSED
        await applied(desk, account, Adjust(40, "goodwill"))
        move = NewMove(uuid4(), MoveKind.TRANSFER)
        moved = await desk.executor.transfer(account, other, 10, move=move)
        assert isinstance(moved, Transferred)
        assert (moved.source.state.available, moved.target.state.available) == (15, 10)
        merged = await desk.executor.transfer(other, account, 0, move=NewMove(uuid4(), MoveKind.MERGE))
        assert isinstance(merged, Transferred)
        assert merged.target.state.available == 25
        assert (await applied(desk, account, Sweep())).entries == ()
        assert (await reconcile_points(desk.postgres)).problems == []


async def test_a_dry_run_answers_and_changes_nothing(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()
        outcome = await desk.executor.execute(account, Earn(5), dry_run=True)
        assert isinstance(outcome, Applied)
        assert outcome.state.available == 5
        assert await desk.row(account) == (0, 0, 0, 0, 0)


async def test_more_operations_than_a_client_may_have_waiting_are_refused(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()
        executor = LoyaltyExecutor(desk.postgres, timeout_s=10.0, max_waiting=4)
        first = [asyncio.create_task(executor.execute(account, Earn(1))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(PointsBusyError):
            await executor.execute(account, Earn(1))
        assert isinstance(await executor.execute(account, Earn(1), client_id=CLIENT), Applied)
        assert len(await asyncio.gather(*first)) == 2
        assert await refused(desk, 999, Earn(1)) is RefusalCode.ACCOUNT_NOT_FOUND
        await executor.aclose()


async def test_a_value_that_postgres_refuses_fails_its_operation_alone(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        first, second, account = await desk.accounts(3)
        await applied(desk, first, Earn(5))
        execute, transfer = desk.executor.execute, NewMove(uuid4(), MoveKind.TRANSFER)
        outcomes = await asyncio.gather(
            execute(account, Earn(1)),
            desk.executor.transfer(first, second, 1, move=transfer, reason="a\0b"),  # in what is written
            *(execute(account, Earn(1)) for _ in range(3)),
            execute(first, Earn(order=OrderRef("a\0b", "1", 100))),  # in what is read
            execute(first, Earn(order=OrderRef("shop", "1", MAX_POINTS + 1))),
            execute(first, Earn(order=OrderRef("shop", "2", 2**64))),  # not encoded
            execute(account, Spend(4)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [
            Applied,
            asyncpg.CharacterNotInRepertoireError,
            *[Applied] * 3,
            asyncpg.CharacterNotInRepertoireError,
            asyncpg.CheckViolationError,
            asyncpg.DataError,
            Applied,
        ]
        assert [await desk.row(one) for one in (first, second, account)] == [
            (1, 5, 0, 0, 0),
            (0, 0, 0, 0, 0),
            (5, 0, 0, 0, 0),
        ]


async def test_an_act_whose_operation_is_not_carried_out_leaves_nothing(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account, other = await desk.accounts(2)
        order, program_id = OrderRef("shop", "A-1", 10_000), desk.program.id
        await applied(desk, account, Earn(order=order))

        async def take_back(account_id: int, **values: Any) -> tuple[Applied | Refusal, bool]:
            act = CountRefund(program_id, order, "refund")
            outcome = await desk.executor.execute(account_id, TakeBack(order, 100), act=act, **values)
            return outcome, await has_counted(desk.postgres, program_id, order, "refund")

        refusal, counted = await take_back(other)
        assert (type(refusal), counted) == (Refusal, False)
        tried, counted = await take_back(account, dry_run=True)
        assert (type(tried), counted) == (Applied, False)
        done, counted = await take_back(account)
        assert (type(done), counted) == (Applied, True)
        with pytest.raises(RefundCountedError):
            await take_back(account)


WAITING: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_an_operation_is_decided_on_what_the_transaction_before_it_has_left(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()
        await applied(desk, account, Earn(5))
        other = LoyaltyExecutor(desk.postgres, timeout_s=10.0)
        async with desk.postgres.acquire() as connection, connection.transaction():
            await connection.execute("SELECT FROM accounts WHERE id = $1 FOR NO KEY UPDATE", account)
            spending = asyncio.create_task(other.execute(account, Spend(5)))
            while not spending.done() and not await desk.postgres.fetchval(WAITING):
                await asyncio.sleep(0.005)
            assert not spending.done()
            # As if the transaction before it had spent most of the points.
            spent = "UPDATE accounts SET available = 1, buckets = jsonb_set(buckets, '{0,1}', '1') WHERE id = $1"
            await connection.execute(spent, account)
        refusal = await spending
        assert isinstance(refusal, Refusal)
        assert refusal.code is RefusalCode.INSUFFICIENT_POINTS
        await other.aclose()


async def test_the_terms_that_count_are_those_when_the_account_is_read(settings: Settings) -> None:
    """Whatever a request has read before: a change of the program that was answered counts for all that follow."""
    async with points_desk(settings) as desk:
        account, program = await desk.account(), desk.program
        first = OrderRef("shop", "1", 1_000, "EUR")
        assert (await applied(desk, account, Earn(order=first))).state.available == 10
        twice = await change_program(
            desk.postgres, program, terms=replace(program.terms, earn=EarnRate(2, 100, "EUR")), actor="test"
        )
        earned = await applied(desk, account, Earn(order=OrderRef("shop", "2", 1_000, "EUR")))
        assert earned.entry is not None
        assert (earned.entry.points, earned.entry.terms_number) == (20, twice.terms_number)
        assert earned.program == twice
        await change_program(
            desk.postgres, program, terms=replace(program.terms, earn=EarnRate(1, 1, "JPY")), actor="test"
        )
        late = Earn(order=OrderRef("shop", "3", 1_000, "EUR"))
        assert await refused(desk, account, late) is RefusalCode.OTHER_CURRENCY
        assert (await applied(desk, account, Earn(order=first))).replayed
        await change_program(desk.postgres, program, state=ProgramState.PAUSED, actor="test")
        assert await refused(desk, account, Spend(1)) is RefusalCode.PROGRAM_PAUSED
        assert (await desk.row(account))[:2] == (2, 30)


async def test_operations_continue_while_a_newer_version_adds_columns(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        account = await desk.account()
        await applied(desk, account, Adjust(10, "before"))
        await desk.postgres.execute("""
            ALTER TABLE accounts ADD COLUMN later integer NOT NULL DEFAULT 0;
            ALTER TABLE entries ADD COLUMN later uuid NOT NULL DEFAULT gen_random_uuid()""")
        await applied(desk, account, Spend(4))
        assert await desk.row(account) == (2, 6, 0, 0, 0)
        assert (await reconcile_points(desk.postgres)).holds


_RECORD_ORDER: Final = """
INSERT INTO orders (program_id, source, order_id, amount_minor, points, account_id, earned_by, earned_seq, on_refund)
VALUES ($1, 'shop', 'A-1', 10000, 100, $2, $2, 1, 'debt')"""


async def test_an_order_that_another_process_records_meanwhile_earns_nothing_more(settings: Settings) -> None:
    async with points_desk(settings) as desk:
        first, second = await desk.accounts(2)
        async with desk.postgres.acquire() as connection, connection.transaction():
            # As the transaction of the other process does: this one cannot see the order, and waits for its key.
            await connection.execute(_RECORD_ORDER, desk.program.id, first)
            earn = desk.executor.execute(second, Earn(order=OrderRef("shop", "A-1", 10_000)))
            waiting = asyncio.create_task(earn)
            async with asyncio.timeout(30):
                while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                    await asyncio.sleep(0.01)
        await waiting
        assert await desk.row(second) == (0, 0, 0, 0, 0)
