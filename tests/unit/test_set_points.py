"""Setting the points of an account is an adjustment by the difference."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from issuer.loyalty.account import AccountState, EntryOp
from issuer.loyalty.apply import apply
from issuer.loyalty.operations import Adjust, SetPoints
from issuer.loyalty.outcome import Applied
from issuer.loyalty.program import Program, ProgramState
from issuer.loyalty.terms import Terms

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PROGRAM = Program(UUID(int=1), UUID(int=2), "Beans", "points", "UTC", ProgramState.ACTIVE, 1, Terms(), NOW)


def test_points_are_set_by_one_entry_of_the_difference() -> None:
    state = AccountState(1)
    for points, op, moved in (
        (123, EntryOp.ADJUST_UP, 123),
        (200, EntryOp.ADJUST_UP, 77),
        (200, None, 0),
        (45, EntryOp.ADJUST_DOWN, 155),
        (-5, EntryOp.ADJUST_DOWN, 50),
        (-7, EntryOp.ADJUST_DOWN, 2),
        (0, EntryOp.ADJUST_UP, 7),
        (10, EntryOp.ADJUST_UP, 10),
    ):
        applied = apply(state, SetPoints(points, "set"), NOW, PROGRAM)
        assert isinstance(applied, Applied)
        assert (None if applied.entry is None else applied.entry.op) == op, points
        assert sum(entry.points for entry in applied.entries) == moved, points
        state = applied.state
        assert state.available - state.debt == points
        assert state.available == max(points, 0)


def test_what_is_held_is_not_set() -> None:
    adjusted = apply(AccountState(1, held=30), Adjust(5, "first"), NOW, PROGRAM)
    assert isinstance(adjusted, Applied)
    applied = apply(adjusted.state, SetPoints(0, "set"), NOW, PROGRAM)
    assert isinstance(applied, Applied)
    assert (applied.state.available, applied.state.held, applied.state.debt) == (0, 30, 0)
