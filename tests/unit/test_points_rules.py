"""The rules of the points ledger, one test each (rules 13 to 15 are those of members and rewards)."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from issuer.loyalty.account import AccountState, EntryId, EntryOp, MoveState, PointsBucket, PointsEntry
from issuer.loyalty.apply import apply
from issuer.loyalty.bounds import MAX_HOLDS, MAX_POINTS, NEVER
from issuer.loyalty.effects import EFFECTS
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
    TransferIn,
    TransferOut,
    Undo,
)
from issuer.loyalty.outcome import Applied, Refusal, RefusalCode
from issuer.loyalty.program import Program, ProgramState
from issuer.loyalty.terms import Terms, TermsError, parse_terms

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)
RATE = {"points": 1, "per": "0.10", "currency": "EUR"}


def terms(**values: Any) -> Terms:
    return parse_terms({"earn": RATE, **values}, "points")


class Ledger:
    """One account, with every operation applied to what the one before has left."""

    def __init__(self, account_id: int = 1, **values: Any) -> None:
        self.program = Program(
            UUID(int=1), UUID(int=2), "Club", "points", "UTC", ProgramState.ACTIVE, 1, terms(**values), NOW
        )
        self.state = AccountState(account_id)
        self.now = NOW

    def ask(self, operation: Operation) -> Applied | Refusal:
        outcome = apply(self.state, operation, self.now, self.program)
        if isinstance(outcome, Applied) and not outcome.replayed:
            entries = {EntryId(self.state.id, entry.seq): entry for entry in outcome.entries}
            self.state = outcome.state._replace(entries={**self.state.entries, **entries})
        return outcome

    def do(self, operation: Operation) -> list[tuple[str, int]]:
        """Return kind and points of the entries."""
        outcome = self.ask(operation)
        assert isinstance(outcome, Applied), outcome
        return [(str(entry.op), entry.points) for entry in outcome.entries]

    def refused(self, operation: Operation) -> Refusal:
        before = self.state
        outcome = self.ask(operation)
        assert isinstance(outcome, Refusal), outcome
        assert self.state == before
        return outcome

    def code(self, operation: Operation) -> str:
        return str(self.refused(operation).code)

    @property
    def figures(self) -> tuple[int, int, int, int]:
        return self.state.available, self.state.held, self.state.pending, self.state.debt

    @property
    def buckets(self) -> list[PointsBucket]:
        return list(self.state.buckets)

    def hold(self, points: int, hours: float = 1) -> UUID:
        hold_id = uuid4()
        self.do(PlaceHold(hold_id, points, self.now + timedelta(hours=hours)))
        return hold_id


def order(order_id: str, amount: int = 0) -> OrderRef:
    return OrderRef("shop", order_id, amount)


def test_rule_1_no_figure_leaves_its_bounds() -> None:
    ledger = Ledger()
    ledger.do(Earn(MAX_POINTS - 1))
    assert ledger.code(Earn(2)) == "limit_reached"
    assert ledger.code(Adjust(2, "too much")) == "limit_reached"
    ledger.hold(10)
    # Released points must still fit.
    assert ledger.code(Earn(2)) == "limit_reached"
    assert ledger.do(Earn(order=order("huge", 10**12))) == [("earn", 1)]
    assert ledger.do(Spend(MAX_POINTS - 10)) == [("spend", MAX_POINTS - 10)]
    assert ledger.do(Adjust(-MAX_POINTS, "error", allow_debt=True)) == [("adjust_down", MAX_POINTS)]
    assert ledger.code(Adjust(-1, "error", allow_debt=True)) == "limit_reached"
    # What an account has earned in all its lifetime is bounded, too.
    assert ledger.code(Earn(1)) == "limit_reached"


def test_what_a_day_adds_up_to_stays_within_the_bound() -> None:
    ledger, move = Ledger(), NewMove(uuid4(), MoveKind.TRANSFER)
    ledger.do(Earn(MAX_POINTS))
    ledger.do(Spend(MAX_POINTS))
    ledger.do(TransferIn(move, (PointsBucket(NEVER, MAX_POINTS),)))
    ledger.do(Spend(MAX_POINTS))
    assert (ledger.state.available, ledger.state.day_spent, ledger.state.day_earned) == (0, MAX_POINTS, MAX_POINTS)


def test_rule_2_the_soonest_expiry_is_spent_first_and_never_last() -> None:
    ledger = Ledger(expiry={"days": 10})
    ledger.do(Earn(5))
    later = ledger.state.buckets[0].expires_at
    ledger.program = replace(ledger.program, terms=terms())
    ledger.do(Earn(5))
    ledger.program = replace(ledger.program, terms=terms(expiry={"days": 3}))
    ledger.do(Earn(5))
    soon = ledger.state.buckets[0].expires_at
    assert ledger.buckets == [(soon, 5), (later, 5), (NEVER, 5)]
    ledger.do(Spend(6))
    assert ledger.buckets == [(later, 4), (NEVER, 5)]
    ledger.hold(5)
    assert ledger.buckets == [(NEVER, 4)]
    assert ledger.state.available == 4
    assert ledger.state.held == sum(hold.points for hold in ledger.state.holds) == 5


def test_rule_3_every_entry_changes_the_figures_by_its_points() -> None:
    draw = random.Random(3)
    ledger = Ledger(expiry={"days": 2}, on_refund="clamp", pending_days=1)
    seen: list[PointsEntry] = []
    for number in range(400):
        ledger.now += timedelta(hours=draw.randint(0, 9))
        held = [hold.id for hold in ledger.state.holds]
        operation = draw.choice(
            (
                Earn(draw.randint(1, 9)),
                Earn(order=order(str(number), draw.randint(0, 99))),
                Spend(draw.randint(1, 9)),
                PlaceHold(uuid4(), draw.randint(1, 9), ledger.now + timedelta(hours=draw.randint(1, 20))),
                CaptureHold(draw.choice(held or [uuid4()])),
                TakeBack(order(str(number - 1))),
                Undo(draw.randint(1, number + 1)),
                Adjust(draw.randint(1, 9), "up"),
                Adjust(-draw.randint(1, 9), "down", draw.random() < 0.5),
            )
        )
        outcome = ledger.ask(operation)
        seen += outcome.entries if isinstance(outcome, Applied) else ()
    figures = (0, 0, 0)
    for number, entry in enumerate(seen, 1):
        effect = EFFECTS[entry.op]
        after = (entry.available + entry.held - entry.debt, entry.pending, entry.lifetime)
        assert after == tuple(before + sign * entry.points for before, sign in zip(figures, effect, strict=True))
        assert entry.seq == number
        figures = after
    kinds = {entry.op for entry in seen}
    assert {EntryOp.MATURE, EntryOp.EXPIRE, EntryOp.HOLD_EXPIRED, EntryOp.TAKE_BACK_PENDING, EntryOp.UNDO} <= kinds
    assert set(EFFECTS) == set(EntryOp)


def test_rule_4_an_order_earns_once_and_a_repeat_returns_the_first_entry() -> None:
    ledger = Ledger()
    first = ledger.ask(Earn(order=order("A", 1_000)))
    assert isinstance(first, Applied)
    ledger.now += 400 * DAY
    again = ledger.ask(Earn(order=order("A", 1_000)))
    assert isinstance(again, Applied)
    assert (again.replayed, again.entry, again.state) == (True, first.entry, ledger.state)
    assert ledger.state.available == 100
    assert ledger.code(Earn(order=order("A", 1_001))) == "order_differs"
    # A repeat is answered also while the program is paused; it adds nothing.
    ledger.program = replace(ledger.program, state=ProgramState.PAUSED)
    assert isinstance(ledger.ask(Earn(order=order("A", 1_000))), Applied)
    assert ledger.code(Earn(order=order("B", 1_000))) == "program_paused"


def test_rule_5_a_debit_is_granted_whole_or_not_at_all() -> None:
    ledger = Ledger()
    ledger.do(Earn(10))
    refusal = ledger.refused(Spend(11))
    assert (refusal.code, refusal.available, refusal.required) == (RefusalCode.INSUFFICIENT_POINTS, 10, 11)
    assert ledger.code(PlaceHold(uuid4(), 11, NOW + DAY)) == "insufficient_points"
    ledger.do(Spend(10))
    ledger.do(Adjust(-5, "error", allow_debt=True))
    refusal = ledger.refused(Spend(1))
    assert (refusal.code, refusal.debt) == (RefusalCode.INSUFFICIENT_POINTS, 5)


def test_rule_6_every_credit_pays_the_debt_first() -> None:
    ledger = Ledger()
    ledger.do(Earn(order=order("A", 1_000)))
    released, captured, expired = ledger.hold(20), ledger.hold(20), ledger.hold(20)
    ledger.do(Spend(40))
    ledger.do(TakeBack(order("A")))
    assert ledger.figures == (0, 60, 0, 100)
    ledger.do(ReleaseHold(released))
    assert ledger.figures == (0, 40, 0, 80)
    assert ledger.do(CaptureHold(captured, 5)) == [("capture", 5), ("release", 15)]
    assert ledger.figures == (0, 20, 0, 65)
    ledger.now += timedelta(hours=1)
    assert ledger.do(Sweep()) == [("hold_expired", 20)]
    assert ledger.figures == (0, 0, 0, 45)
    assert expired
    ledger.do(Earn(15))
    assert ledger.figures == (0, 0, 0, 30)
    ledger.do(Adjust(10, "goodwill"))
    ledger.do(Undo(5, 15))
    assert ledger.figures == (0, 0, 0, 5)
    ledger.do(Earn(15))
    assert ledger.figures == (10, 0, 0, 0)


def test_rule_7_a_refund_takes_pending_points_first_then_the_account_then_debt() -> None:
    ledger = Ledger(pending_days=2)
    ledger.do(Earn(order=order("A", 1_000)))
    ledger.program = replace(ledger.program, terms=terms())
    ledger.do(Earn(30))
    assert ledger.do(TakeBack(order("A"), 400)) == [("take_back_pending", 40)]
    assert ledger.figures == (30, 0, 60, 0)
    ledger.do(Earn(order=order("B", 500)))
    ledger.do(Spend(70))
    assert ledger.do(TakeBack(order("B"))) == [("take_back", 50)]
    assert ledger.figures == (0, 0, 60, 40)
    # Under clamp the rest is written off, visibly. What the terms said when it was earned decides.
    ledger.program = replace(ledger.program, terms=terms(on_refund="clamp"))
    ledger.do(Earn(order=order("C", 500)))
    ledger.do(Spend(10))
    ledger.program = replace(ledger.program, terms=terms())
    assert ledger.do(TakeBack(order("C"))) == [("take_back", 50), ("write_off", 50)]
    assert ledger.figures == (0, 0, 60, 0)
    assert ledger.state.lifetime == 30 + 60


def test_rule_8_partial_refunds_are_cumulative() -> None:
    ledger = Ledger(earn={"points": 1, "per": "0.10", "currency": "EUR"})
    ledger.do(Earn(order=order("A", 100)))
    taken = [ledger.do(TakeBack(order("A"), 1)) for _ in range(10)]
    assert taken[0] == [("take_back", 1)]
    assert taken[1:] == [[("take_back", 0)]] * 9
    assert ledger.state.available == 9
    # An order that a limit has capped is scaled the same way, and in whatever terms hold now.
    ledger = Ledger(limits={"earn_entry": 50})
    ledger.do(Earn(order=order("A", 1_000)))
    ledger.program = replace(ledger.program, terms=terms(earn=None))
    assert ledger.do(TakeBack(order("A"), 500)) == [("take_back", 25)]
    # Shops refund shipping, too: no more is taken than was earned.
    assert ledger.do(TakeBack(order("A"), 10_000)) == [("take_back", 25)]
    assert ledger.code(TakeBack(order("A"), 1)) == "already_reversed"
    assert ledger.code(TakeBack(order("unknown"), 1)) == "order_not_found"


@pytest.mark.parametrize("orders", [200, pytest.param(10_000, marks=(pytest.mark.long, pytest.mark.minutes))])
def test_rule_8_ten_partial_refunds_take_as_much_as_one(orders: int) -> None:
    draw = random.Random(orders)
    for _ in range(orders):
        amount, points = draw.randint(10, 100_000), draw.randint(0, 50_000)
        refunded = draw.randint(10, amount)
        cuts = sorted(draw.choices(range(refunded + 1), k=9))
        parts = [after - before for before, after in zip([0, *cuts], [*cuts, refunded], strict=True)]
        once, often = Ledger(), Ledger()
        for ledger in (once, often):
            ledger.do(Earn(points, order("A", amount)))
        once.do(TakeBack(order("A"), refunded))
        for part in parts:
            if often.state.orders["shop", "A"].refunded_minor < amount:
                often.do(TakeBack(order("A"), part))
        assert once.figures == often.figures, (amount, points, refunded, parts)
        assert once.state.orders == often.state.orders


def test_rule_9_a_hold_is_settled_once_and_expires_lazily() -> None:
    ledger = Ledger(expiry={"days": 1})
    ledger.do(Earn(30))
    first, second, third = ledger.hold(10), ledger.hold(10, hours=48), ledger.hold(5)
    assert ledger.code(CaptureHold(first, 11)) == "hold_exceeded"
    ledger.do(CaptureHold(first))
    assert ledger.code(CaptureHold(first)) == ledger.code(ReleaseHold(first)) == "hold_settled"
    assert ledger.code(ReleaseHold(uuid4())) == "hold_not_found"
    ledger.now += timedelta(hours=1) - timedelta(microseconds=1)
    assert ledger.do(Sweep()) == []
    ledger.now += timedelta(microseconds=1)
    assert ledger.code(CaptureHold(third)) == ledger.code(ReleaseHold(third)) == "hold_expired"
    assert ledger.do(Sweep()) == [("hold_expired", 5)]
    ledger.now += timedelta(hours=36)
    # The points were valid when they were reserved. Released after their expiry, they expire in the same step.
    assert ledger.do(ReleaseHold(second)) == [("expire", 10), ("release", 10), ("expire", 10)]
    assert ledger.figures == (0, 0, 0, 0)
    for _ in range(MAX_HOLDS):
        ledger.do(Earn(1))
        ledger.hold(1)
    ledger.do(Earn(1))
    assert ledger.code(PlaceHold(uuid4(), 1, ledger.now + DAY)) == "limit_reached"
    assert ledger.code(PlaceHold(uuid4(), 1, ledger.now)) == "hold_expired"


def test_rule_10_expiry_is_exclusive_and_fixed_when_points_are_earned() -> None:
    ledger = Ledger(expiry={"months": 1})
    ledger.do(Earn(10))
    assert ledger.buckets == [(datetime(2026, 3, 1, tzinfo=UTC), 10)]
    ledger.program = replace(ledger.program, timezone="Asia/Kathmandu", terms=terms(expiry={"days": 1}))
    ledger.now = datetime(2026, 3, 1, tzinfo=UTC) - timedelta(microseconds=1)
    assert ledger.do(Sweep()) == []
    ledger.now = datetime(2026, 3, 1, tzinfo=UTC)
    assert ledger.code(Spend(1)) == "insufficient_points"
    assert ledger.do(Sweep()) == [("expire", 10)]
    # An undo restores points with their old expiry, what was taken last first.
    ledger.do(Earn(4))
    old = ledger.buckets
    ledger.program = replace(ledger.program, terms=terms())
    ledger.do(Earn(4))
    ledger.do(Spend(6))
    ledger.do(Undo(ledger.state.seq, 3))
    assert ledger.buckets == [(old[0].expires_at, 1), (NEVER, 4)]
    assert ledger.code(Undo(ledger.state.seq - 1, 4)) == "already_reversed"
    ledger.now += 2 * DAY
    assert ledger.do(Undo(ledger.state.seq - 1)) == [("expire", 1), ("undo", 3), ("expire", 3)]


def test_rule_11_a_transfer_keeps_expiry_and_sum_and_is_refused_with_a_debt() -> None:
    source, target = Ledger(1, expiry={"days": 5}), Ledger(2)
    source.do(Earn(10))
    target.do(Adjust(-4, "error", allow_debt=True))
    move = NewMove(uuid4(), MoveKind.TRANSFER)
    assert source.code(TransferOut(11, move)) == "insufficient_points"
    sent = source.ask(TransferOut(7, move))
    assert isinstance(sent, Applied)
    assert sent.moved is not None
    assert target.do(sent.moved) == [("transfer_in", 7)]
    assert (source.figures, target.figures) == ((3, 0, 0, 0), (3, 0, 0, 0))
    assert target.state.buckets == (PointsBucket(source.state.buckets[0].expires_at, 3),)
    source.do(Adjust(-5, "error", allow_debt=True))
    assert source.code(TransferOut(1, move)) == "insufficient_points"
    # A merge moves everything, a debt as well.
    merged = source.ask(TransferOut(0, NewMove(uuid4(), MoveKind.MERGE), merge=True))
    assert isinstance(merged, Applied)
    assert merged.moved is not None
    assert target.do(merged.moved) == [("lifetime_in", 10), ("debt_in", 2)]
    assert (source.figures, target.figures) == ((0, 0, 0, 0), (1, 0, 0, 0))
    held = Ledger(3)
    held.do(Earn(1))
    held.hold(1)
    assert held.code(TransferOut(0, move, merge=True)) == "holds_open"


def test_rule_12_an_adjustment_needs_a_reason_and_is_below_zero_only_with_allow_debt() -> None:
    ledger = Ledger()
    assert ledger.code(Adjust(1, "  ")) == "reason_needed"
    assert ledger.do(Adjust(5, "goodwill")) == [("adjust_up", 5)]
    assert ledger.code(Adjust(-6, "error")) == "insufficient_points"
    assert ledger.do(Adjust(-6, "error", allow_debt=True)) == [("adjust_down", 6)]
    assert ledger.figures == (0, 0, 0, 1)
    assert ledger.state.lifetime == 0


def test_rule_15_the_debit_of_a_purchase_is_undone_with_its_move_only_and_once() -> None:
    ledger = Ledger()
    ledger.do(Earn(10))
    move = NewMove(uuid4(), MoveKind.PURCHASE, uuid4())
    ledger.do(Spend(10, move=move))
    assert ledger.state.moves == {move.id: MoveState.DEBITED}
    assert ledger.code(Undo(2)) == "not_reversible"
    assert ledger.do(Undo(2, move_id=move.id)) == [("undo", 10)]
    assert ledger.state.moves == {move.id: MoveState.UNDONE}
    ledger.do(Spend(10, move=replace(move, id=uuid4())))
    done = ledger.state.entries[EntryId(1, 4)].move_id
    assert done is not None
    ledger.state = ledger.state._replace(moves={done: MoveState.DONE})
    assert ledger.code(Undo(4, move_id=done)) == "move_settled"


def test_limits_bound_an_entry_and_a_day() -> None:
    ledger = Ledger(limits={"earn_entry": 50, "earn_day": 80, "spend_entry": 30, "spend_day": 40}, min_spend=5)
    assert ledger.code(Earn(51)) == "limit_reached"
    ledger.do(Earn(50))
    refusal = ledger.refused(Earn(31))
    assert (refusal.code, refusal.retry_at) == (RefusalCode.LIMIT_REACHED, datetime(2026, 2, 1, tzinfo=UTC))
    assert ledger.do(Earn(order=order("capped", 1_000))) == [("earn", 30)]
    assert ledger.code(Spend(4)) == "below_minimum"
    assert ledger.refused(Spend(31)).retry_at is None
    hold = ledger.hold(30)
    assert ledger.refused(Spend(11)).retry_at == datetime(2026, 2, 1, tzinfo=UTC)
    ledger.do(CaptureHold(hold, 5))
    # What was released counts no more.
    ledger.do(Spend(30))
    assert ledger.code(Spend(6)) == "limit_reached"
    # What was undone on the same day does not count either.
    ledger.do(Undo(ledger.state.seq))
    ledger.do(Spend(30))
    ledger.now += DAY
    ledger.do(Spend(30))
    ledger = Ledger(max_balance=100)
    assert ledger.code(Earn(101)) == "limit_reached"


def test_the_clock_of_an_account_never_runs_backwards() -> None:
    ledger = Ledger()
    ledger.do(Earn(1))
    ledger.now -= DAY
    outcome = ledger.ask(Earn(1))
    assert isinstance(outcome, Applied)
    assert outcome.entries[0].occurred_at == NOW


def test_late_sweeps_leave_what_sweeps_at_every_instant_leave() -> None:
    draw = random.Random(1)
    for _ in range(50):
        late, prompt = Ledger(expiry={"days": 2}), Ledger(expiry={"days": 2})
        for ledger in (late, prompt):
            ledger.do(Adjust(-5, "debt", allow_debt=True))
        for _ in range(12):
            points, hold_id, hours = draw.randint(1, 9), uuid4(), draw.randint(1, 60)
            for ledger in (late, prompt):
                ledger.program = replace(ledger.program, terms=terms(expiry={"days": 2}, pending_days=hours % 3))
                ledger.do(Earn(points))
                ledger.ask(PlaceHold(hold_id, points // 2 + 1, ledger.now + timedelta(hours=hours)))
        while (due := prompt.state.due_at) < NEVER:
            prompt.now = due
            prompt.do(Sweep())
        late.now = prompt.now
        late.do(Sweep())
        assert late.state._replace(entries={}) == prompt.state._replace(entries={})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "terms must be an object"),
        ({"unknown": 1}, "terms has no field unknown"),
        ({"earn": {"points": 0, "per": "1", "currency": "EUR"}}, "earn.points must be an integer from 1"),
        ({"earn": {"points": 1, "per": 1, "currency": "EUR"}}, "earn.per must be an amount in quotation marks"),
        ({"earn": {"points": 1, "per": "0.001", "currency": "EUR"}}, "at most 2 decimals"),
        ({"earn": {"points": 1, "per": "1"}}, "earn.currency must be a currency"),
        ({"expiry": {"days": 1, "months": 1}}, "expiry must have one of"),
        ({"expiry": {"days": True}}, "expiry.days must be an integer"),
        ({"on_refund": "maybe"}, "on_refund must be debt or clamp"),
        ({"limits": {"spend_entry": 3}, "min_spend": 4}, "min_spend must not be above"),
        ({"tiers": [{"name": "a", "lifetime": 1}, {"name": "b", "lifetime": 1}]}, "tiers must differ"),
    ],
)
def test_terms_that_are_not_valid_are_refused(value: object, message: str) -> None:
    with pytest.raises(TermsError, match=message):
        parse_terms(value, "points")


def test_terms_are_read_back_as_they_are_written() -> None:
    tiers = [{"name": "gold", "lifetime": 500}, {"name": "silver", "lifetime": 100}]
    given = terms(expiry={"end_of_year": 2}, tiers=tiers, limits={"earn_day": 7}, pending_days=14, on_refund="clamp")
    assert parse_terms(given.to_json(), "points") == given
    assert [given.tier(lifetime) for lifetime in (99, 100, 499, 500)] == [None, "silver", "silver", "gold"]
    with pytest.raises(TermsError, match="must be GBP"):
        parse_terms({"earn": RATE}, "GBP")
