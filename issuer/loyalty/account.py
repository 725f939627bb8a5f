"""The state of one account: balances, buckets, holds, pending points, and what an operation needs besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

from issuer.instants import EPOCH
from issuer.loyalty.bounds import NEVER
from issuer.loyalty.program import Program
from issuer.loyalty.terms import OnRefund
from issuer.storage.postgres import AnyConnection

# Of states and entries there are several for each operation: a tuple is made in a quarter of the time that a frozen
# instance takes.
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})


class PointsBucket(NamedTuple):
    """Points that expire at one instant, which is exclusive: at that instant they are gone."""

    expires_at: datetime
    points: int


class HoldState(StrEnum):
    OPEN = "open"
    CAPTURED = "captured"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Hold:
    """Reserved points: `buckets` with the expiry that they keep. `seq`: the entry that placed it."""

    id: UUID
    points: int
    expires_at: datetime
    buckets: tuple[PointsBucket, ...]
    seq: int
    state: HoldState = HoldState.OPEN
    captured: int = 0


class EntryId(NamedTuple):
    """An entry of the ledger."""

    account_id: int
    seq: int


@dataclass(frozen=True, slots=True)
class Pending:
    """Points that `earned` has earned and that become available later."""

    earned: EntryId
    points: int
    available_at: datetime
    expires_at: datetime


OrderKey = tuple[str, str]
"""Source and id of an order within its program."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order that has earned points. `account_id`: whose it is now; `earned`: the entry of the earn.

    `on_refund`: what its terms said then.
    """

    amount_minor: int
    points: int
    account_id: int
    earned: EntryId
    refunded_minor: int = 0
    reversed: int = 0
    on_refund: OnRefund = OnRefund.DEBT


class MoveState(StrEnum):
    DEBITED = "debited"
    DONE = "done"
    UNDONE = "undone"


class AccountState(NamedTuple):
    """What decides about an operation. All of it is read under the lock of the account.

    `merged_seq`: the latest entry when a merge moved everything to another account, where it has to be reversed.
    `holds`: the open ones, and those that an operation names. `orders`, `entries`, `reversed`, `moves`: only those that
    an operation names; `reversed`: points of an entry that were reversed before, by its id.
    """

    id: int
    seq: int = 0
    available: int = 0
    held: int = 0
    pending: int = 0
    debt: int = 0
    lifetime: int = 0
    buckets: tuple[PointsBucket, ...] = ()
    pendings: tuple[Pending, ...] = ()
    holds: tuple[Hold, ...] = ()
    day: date = date(1970, 1, 1)
    day_earned: int = 0
    day_spent: int = 0
    touched_at: datetime = EPOCH
    merged_seq: int = 0
    orders: Mapping[OrderKey, Order] = _NOTHING
    entries: Mapping[EntryId, PointsEntry] = _NOTHING
    reversed: Mapping[EntryId, int] = _NOTHING
    moves: Mapping[UUID, MoveState] = _NOTHING

    @property
    def due_at(self) -> datetime:
        """The first instant at which something expires or becomes available."""
        if not self.pendings and not self.holds:
            return self.buckets[0].expires_at if self.buckets else NEVER
        return min(
            (
                *(bucket.expires_at for bucket in self.buckets[:1]),
                *(pending.available_at for pending in self.pendings),
                *(hold.expires_at for hold in self.holds if hold.state is HoldState.OPEN),
            ),
            default=NEVER,
        )

    def hold(self, hold_id: UUID) -> Hold | None:
        return next((hold for hold in self.holds if hold.id == hold_id), None)


class EntryOp(StrEnum):
    """What an entry did. EFFECTS of `issuer.loyalty.effects` has its effect on the figures."""

    EARN = "earn"
    EARN_PENDING = "earn_pending"
    MATURE = "mature"
    SPEND = "spend"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    HOLD_EXPIRED = "hold_expired"
    EXPIRE = "expire"
    TAKE_BACK = "take_back"
    TAKE_BACK_PENDING = "take_back_pending"
    WRITE_OFF = "write_off"
    UNDO = "undo"
    ADJUST_UP = "adjust_up"
    ADJUST_DOWN = "adjust_down"
    TRANSFER_OUT = "transfer_out"
    TRANSFER_IN = "transfer_in"
    DEBT_OUT = "debt_out"
    DEBT_IN = "debt_in"
    PENDING_OUT = "pending_out"
    PENDING_IN = "pending_in"
    LIFETIME_OUT = "lifetime_out"
    LIFETIME_IN = "lifetime_in"


class PointsEntry(NamedTuple):
    """One line of the ledger of an account. The figures are those after it.

    `buckets`: what a debit took, soonest first. `reverses_seq`: the entry that this one reverses, whole or in part.
    """

    seq: int
    op: EntryOp
    points: int
    available: int
    held: int
    pending: int
    debt: int
    lifetime: int
    terms_number: int
    occurred_at: datetime
    order: OrderKey | None = None
    reason: str | None = None
    reverses_seq: int | None = None
    hold_id: UUID | None = None
    move_id: UUID | None = None
    buckets: tuple[PointsBucket, ...] = ()


_OPEN: Final = """
INSERT INTO accounts (program_id, member_id) VALUES ($1, $2)
ON CONFLICT (member_id, program_id) WHERE member_id IS NOT NULL DO NOTHING RETURNING id"""

_FIND: Final = "SELECT id FROM accounts WHERE member_id = $1 AND program_id = $2"


async def open_account(connection: AnyConnection, program: Program, member_id: UUID | None) -> int:
    """Return the account of a member in a program, opened if there is none. None: open one for a gift card.

    Two transactions that open the same account wait for each other; both return the same id.
    """
    opened = await connection.fetchval(_OPEN, program.id, member_id)
    if opened is None:
        opened = await connection.fetchval(_FIND, member_id, program.id)
    assert isinstance(opened, int)
    return opened
