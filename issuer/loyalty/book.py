"""The book in which one operation is worked out: the figures of an account while its entries are posted.

`apply` opens a book on a state, posts to it, and closes it into a new state. A book never leaves that call, so `apply`
is a pure function.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from issuer.loyalty.account import (
    AccountState,
    EntryId,
    EntryOp,
    Hold,
    HoldState,
    Pending,
    PointsBucket,
    PointsEntry,
)
from issuer.loyalty.bounds import MAX_POINTS
from issuer.loyalty.days import local_day
from issuer.loyalty.outcome import Refusal, RefusalCode
from issuer.loyalty.program import Program


class RefusedError(Exception):
    """The operation is refused; `apply` returns the refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class Book:
    """The figures of one account at one instant, changed by postings. The clock of an account never runs backwards."""

    def __init__(self, state: AccountState, now: datetime, program: Program) -> None:
        self.before: Final = state
        self.program: Final = program
        self.zone: Final = program.zone
        self.now: Final = max(now, state.touched_at)
        self.entries: list[PointsEntry] = []
        self.seq, self.available, self.held = state.seq, state.available, state.held
        self.pending, self.debt, self.lifetime = state.pending, state.debt, state.lifetime
        self.buckets: list[PointsBucket] = list(state.buckets)
        # Most accounts have none of these, and a copy of an empty mapping takes as long as everything above.
        self.pendings: dict[EntryId, Pending] = {one.earned: one for one in state.pendings} if state.pendings else {}
        self.holds: dict[Any, Hold] = {hold.id: hold for hold in state.holds} if state.holds else {}
        self.orders = dict(state.orders) if state.orders else {}
        self.reversed = dict(state.reversed) if state.reversed else {}
        self.moves = dict(state.moves) if state.moves else {}
        self.today: Final = max(local_day(self.now, self.zone), state.day)
        self.merged_seq = state.merged_seq
        is_new_day = self.today > state.day
        self.day_earned = 0 if is_new_day else state.day_earned
        self.day_spent = 0 if is_new_day else state.day_spent

    @property
    def next_id(self) -> EntryId:
        """The id of the entry that is posted next."""
        return EntryId(self.before.id, self.seq + 1)

    @property
    def open_holds(self) -> int:
        return sum(hold.state is HoldState.OPEN for hold in self.holds.values())

    def post(self, op: EntryOp, points: int, **values: Any) -> PointsEntry:
        """Append an entry with the figures as they are now."""
        self.seq += 1
        entry = PointsEntry(
            self.seq, op, points, self.available, self.held, self.pending, self.debt, self.lifetime,
            self.program.terms_number, self.now, **values,
        )  # fmt: skip
        self.entries.append(entry)
        return entry

    def refuse(self, code: RefusalCode, required: int | None = None, retry_at: datetime | None = None) -> RefusedError:
        """Return the error that refuses the operation, with the figures as they are now."""
        return RefusedError(Refusal(code, self.available, self.debt, required, retry_at))

    def take(self, points: int) -> tuple[PointsBucket, ...]:
        """Take available points, soonest first; there must be as many. Return what was taken."""
        taken, self.buckets[:] = split(self.buckets, points)
        self.available -= points
        return taken

    def take_or_owe(self, points: int) -> tuple[PointsBucket, ...]:
        """Take what is available, and add the rest to the debt. Return what was taken."""
        taken = self.take(min(points, self.available))
        self.debt += points - total(taken)
        return taken

    def credit(self, buckets: Sequence[PointsBucket]) -> None:
        """Pay the debt first, with what expires soonest; the rest becomes available with its expiry."""
        paid = min(self.debt, total(buckets))
        self.debt -= paid
        rest = split(buckets, paid)[1] if paid else buckets
        for bucket in rest:
            self._put(bucket)
            self.available += bucket.points

    def _put(self, bucket: PointsBucket) -> None:
        for place, known in enumerate(self.buckets):
            if known.expires_at == bucket.expires_at:
                self.buckets[place] = PointsBucket(known.expires_at, known.points + bucket.points)
                return
        insort(self.buckets, bucket)

    def settle(self, hold: Hold, state: HoldState, captured: int = 0) -> None:
        """Bring an open hold into its final state."""
        self.holds[hold.id] = replace(hold, state=state, captured=captured)

    def close(self) -> AccountState:
        """Return the new state. Raises RefusedError if a figure is beyond its bound.

        What a day adds up to is no figure of the account: at the bound it counts no further, as no limit is higher.
        """
        if max(self.available + self.held + self.pending, self.debt, self.lifetime) > MAX_POINTS:
            raise self.refuse(RefusalCode.LIMIT_REACHED)
        # By position: `_replace` takes three times as long.
        return AccountState(
            self.before.id, self.seq, self.available, self.held, self.pending, self.debt, self.lifetime,
            tuple(self.buckets), tuple(self.pendings.values()), tuple(self.holds.values()),
            self.today, min(self.day_earned, MAX_POINTS), min(self.day_spent, MAX_POINTS), self.now,
            self.merged_seq, self.orders, self.before.entries, self.reversed, self.moves,
        )  # fmt: skip


def total(buckets: Iterable[PointsBucket]) -> int:
    return sum(bucket.points for bucket in buckets)


def split(buckets: Sequence[PointsBucket], points: int) -> tuple[tuple[PointsBucket, ...], tuple[PointsBucket, ...]]:
    """Return the first `points` of buckets, soonest first, and the rest. There must be as many."""
    left = points
    first: list[PointsBucket] = []
    for place, bucket in enumerate(buckets):
        if left < bucket.points:
            rest = (PointsBucket(bucket.expires_at, bucket.points - left), *buckets[place + 1 :])
            return (*first, *([PointsBucket(bucket.expires_at, left)] if left else [])), rest
        first.append(bucket)
        left -= bucket.points
    assert left == 0, "more points than there are"
    return tuple(first), ()
