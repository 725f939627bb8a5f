"""What a till shows: one account with its latest entries, and the day of a member of staff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from issuer.loyalty.account import AccountState, EntryOp
from issuer.loyalty.balances import read_balance
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool, unavailable_translated

UNDO_FOR: Final = timedelta(minutes=1)
"""How long after an entry the member of staff who made it may undo it."""
SHOWN_ENTRIES: Final = 10
UNDOABLE: Final = (EntryOp.EARN, EntryOp.EARN_PENDING, EntryOp.SPEND)


@dataclass(frozen=True, slots=True)
class TillEntry:
    """A line of the ledger as the till shows it. `can_undo`: by the member of staff who looks at it, at this moment."""

    seq: int
    op: EntryOp
    points: int
    occurred_at: datetime
    can_undo: bool


@dataclass(frozen=True, slots=True)
class TillAccount:
    """An account at the till. `holder`: the name of the member, or its ref, or None; `member_id` None: a gift card.

    `customer`: to whom codes are issued that the member takes.
    """

    state: AccountState
    member_id: UUID | None
    holder: str | None
    customer: str | None
    entries: tuple[TillEntry, ...] = ()

    @property
    def id(self) -> int:
        return self.state.id


@dataclass(frozen=True, slots=True)
class StaffDay:
    """What a member of staff booked on one day, by kind of entry: how many, and how many points."""

    staff_id: UUID
    name: str
    op: EntryOp
    entries: int
    points: int

    def to_json(self) -> dict[str, Any]:
        """Return the line as the command line prints it."""
        named = {"staff_id": str(self.staff_id), "name": self.name, "op": str(self.op)}
        return {**named, "entries": self.entries, "points": self.points}


_HOLDER: Final = """
SELECT a.member_id, coalesce(m.name, m.ref) AS holder, coalesce(m.ref, m.id::text) AS customer
FROM accounts a LEFT JOIN members m ON m.id = a.member_id
WHERE a.program_id = $1 AND a.id = $2 AND m.erased_at IS NULL AND m.merged_into IS NULL"""

# A purchase is undone by its own work only (moves), so its debit is not offered here.
_ENTRIES: Final = """
SELECT e.seq, e.op, e.points, e.occurred_at,
  e.staff_id = $2 AND e.occurred_at > now() - $3::interval AND e.move_id IS NULL AND e.op = ANY ($4)
  AND NOT EXISTS (SELECT FROM entries r WHERE r.account_id = e.account_id AND r.reverses_seq = e.seq) AS can_undo
FROM entries e WHERE e.account_id = $1 ORDER BY e.seq DESC LIMIT $5"""

_DAY: Final = """
SELECT s.id, s.name, e.op, count(*) AS entries, sum(e.points)::bigint AS points
FROM staff s JOIN entries e ON e.staff_id = s.id AND e.occurred_at >= $2 AND e.occurred_at < $3
WHERE s.program_id = $1 AND ($4::uuid IS NULL OR s.id = $4)
GROUP BY s.id, s.name, e.op ORDER BY s.name, s.id, e.op"""


async def read_till_account(postgres: Pool, program: Program, account_id: int, staff_id: UUID) -> TillAccount | None:
    """Return an account of a program with its latest entries, newest first; None: there is none.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        row = await postgres.fetchrow(_HOLDER, program.id, account_id)
        if row is None:
            return None
        entries = await postgres.fetch(_ENTRIES, account_id, staff_id, UNDO_FOR, UNDOABLE, SHOWN_ENTRIES)
    member_id = None if row["member_id"] is None else UUID(bytes=row["member_id"].bytes)
    state = await read_balance(postgres, program, account_id)
    return TillAccount(state, member_id, row["holder"], row["customer"], tuple(map(_entry, entries)))


async def read_staff_day(
    postgres: Pool, program: Program, day: date, staff_id: UUID | None = None
) -> Sequence[StaffDay]:
    """Return what the staff of a program booked on a day of its time zone; with `staff_id` only one of them.

    Raises PostgresUnavailableError.
    """
    starts_at = datetime.combine(day, time(), program.zone)
    ends_at = datetime.combine(day + timedelta(days=1), time(), program.zone)
    async with unavailable_translated():
        rows = await postgres.fetch(_DAY, program.id, starts_at, ends_at, staff_id)
    return [
        StaffDay(UUID(bytes=row["id"].bytes), row["name"], EntryOp(row["op"]), row["entries"], row["points"])
        for row in rows
    ]


def _entry(row: asyncpg.Record) -> TillEntry:
    return TillEntry(row["seq"], EntryOp(row["op"]), row["points"], row["occurred_at"], bool(row["can_undo"]))
