"""Operations: what a caller asks of one account. Each is a value; `issuer.loyalty.apply` decides about it.

Points are positive integers of at most 10**12 unless stated otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from issuer.loyalty.account import Pending, PointsBucket


@dataclass(frozen=True, slots=True)
class OrderRef:
    """An order of a shop system: the natural key, and what it cost in minor units of `currency`.

    None: whatever currency the terms have.
    """

    source: str
    order_id: str
    amount_minor: int = 0
    currency: str | None = None


class MoveKind(StrEnum):
    TRANSFER = "transfer"
    PURCHASE = "purchase"
    MERGE = "merge"


@dataclass(frozen=True, slots=True)
class NewMove:
    """A row of `moves` that is written with the debit: a purchase begins `debited`, anything else is `done` at once."""

    id: UUID
    kind: MoveKind
    reward_id: UUID | None = None
    batch_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Earn:
    """Add points. With an order once per order: a repeat with the same amount returns the first entry, replayed.

    `points` None: what the amount of the order earns under the terms. Points of an order are capped by limits, points
    without one are refused beyond them.
    """

    points: int | None = None
    order: OrderRef | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """Take points, all or none. `move`: the purchase that this debit begins."""

    points: int
    reason: str | None = None
    move: NewMove | None = None


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Reserve points until `expires_at`. `hold_id` is new."""

    hold_id: UUID
    points: int
    expires_at: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """Take points of a hold (None: all) and release the rest."""

    hold_id: UUID
    points: int | None = None


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """Make the points of a hold available again."""

    hold_id: UUID


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Take back what a refund of an order costs. `amount_refunded`: of this refund, in minor units (None: the rest).

    Only `source` and `order_id` of the order are read.
    """

    order: OrderRef
    amount_refunded: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Undo:
    """Reverse an entry: restore points of a spend or capture, or take back those of an earn (points None: the rest).

    The earn of an order is taken back whole; `TakeBack` refunds a part of it. `move_id`: of the purchase that the
    entry began; it must be debited, and is undone in the same transaction.
    """

    entry_seq: int
    points: int | None = None
    reason: str | None = None
    move_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Adjust:
    """Add points, or take them if negative. `allow_debt`: take what is not available as debt."""

    points: int
    reason: str
    allow_debt: bool = False


@dataclass(frozen=True, slots=True)
class SetPoints:
    """Adjust available − debt to `points`, which may be negative. The same number again changes nothing.

    The difference is computed under the lock of the account, so two that are sent at once do not add up.
    """

    points: int
    reason: str


@dataclass(frozen=True, slots=True)
class TransferOut:
    """Move points to another account. `merge`: move everything instead: points, debt, pending points and lifetime."""

    points: int
    move: NewMove
    merge: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TransferIn:
    """Receive what a TransferOut has moved."""

    move: NewMove
    buckets: tuple[PointsBucket, ...]
    debt: int = 0
    pendings: tuple[Pending, ...] = ()
    lifetime: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """Do what is due: holds expire, points expire, pending points become available."""


Operation = (
    Earn
    | Spend
    | PlaceHold
    | CaptureHold
    | ReleaseHold
    | TakeBack
    | Undo
    | Adjust
    | SetPoints
    | TransferOut
    | TransferIn
    | Sweep
)
