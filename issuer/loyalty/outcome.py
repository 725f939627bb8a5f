"""What becomes of an operation: applied, with the new state and its entries, or refused, which changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from issuer.loyalty.account import AccountState, PointsEntry
from issuer.loyalty.operations import TransferIn
from issuer.loyalty.program import Program


class RefusalCode(StrEnum):
    INSUFFICIENT_POINTS = "insufficient_points"
    LIMIT_REACHED = "limit_reached"
    BELOW_MINIMUM = "below_minimum"
    PROGRAM_PAUSED = "program_paused"
    ALREADY_REVERSED = "already_reversed"
    NOT_REVERSIBLE = "not_reversible"
    ENTRY_NOT_FOUND = "entry_not_found"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_SETTLED = "hold_settled"
    HOLD_EXPIRED = "hold_expired"
    HOLD_EXCEEDED = "hold_exceeded"
    HOLDS_OPEN = "holds_open"
    ORDER_DIFFERS = "order_differs"
    ORDER_NOT_FOUND = "order_not_found"
    NO_EARN_RATE = "no_earn_rate"
    OTHER_CURRENCY = "other_currency"
    REASON_NEEDED = "reason_needed"
    MOVE_SETTLED = "move_settled"
    ACCOUNT_NOT_FOUND = "account_not_found"
    OTHER_PROGRAM = "other_program"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation that is refused: nothing was changed. `available`, `debt`: at that instant.

    `required`: the points that the operation asked for. `retry_at`: when a limit of a day begins again.
    """

    code: RefusalCode
    available: int = 0
    debt: int = 0
    required: int | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """An operation that is applied.

    `entries`: those of due things first, then its own, then what expired with it. `program`: that decided.
    `entry`: its first own entry; None: it changed nothing, such as a sweep. `replayed`: the order was known with the
    same amount, `entry` is the first one and `entries` has only it. `moved`: what a TransferOut has moved.
    """

    state: AccountState
    entries: tuple[PointsEntry, ...]
    program: Program
    entry: PointsEntry | None = None
    replayed: bool = False
    moved: TransferIn | None = None


@dataclass(frozen=True, slots=True)
class Transferred:
    """A transfer that is applied to both accounts."""

    source: Applied
    target: Applied
