"""What a search finds: codes, members, and the events of their time line. No code is shown in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from issuer.ledger.redemptions import CodeState

_SHOWN: Final = 4
"""Characters at the end of a code that are shown, of at most half of it."""
_HIDDEN: Final = "••••"
"""The same for every code: its length is not shown either."""


class FoundBy(StrEnum):
    """What a text can be, each a search of its own."""

    CODE = "code"
    COUPON = "coupon"
    CUSTOMER = "customer"
    ORDER = "order"
    USE = "use"
    MEMBER = "member"
    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"


class EventKind(StrEnum):
    """What can happen to a code, a use of a coupon, an account of points or a card."""

    LOADED = "loaded"
    ISSUED = "issued"
    RECORDED = "recorded"
    REVERSED = "reversed"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    VOID = "void"
    DEAD_LETTER = "dead_letter"
    RESOLVED = "resolved"
    ANOMALY = "anomaly"
    POINTS = "points"
    HELD = "held"
    JOINED = "joined"
    ERASED = "erased"
    CARD_ISSUED = "card_issued"
    CARD_REVOKED = "card_revoked"


@dataclass(frozen=True, slots=True)
class CodeName:
    """The place of a code: what names it without showing it. `code` is masked. `is_coupon`: its batch is a coupon."""

    batch_id: UUID
    batch_name: str
    client_id: UUID
    client_name: str | None
    seq: int
    code: str
    is_coupon: bool


@dataclass(frozen=True, slots=True)
class FoundCode:
    """A code that the text spells, and its state. A coupon has a state of its own at each use, so none here."""

    name: CodeName
    state: CodeState | None


@dataclass(frozen=True, slots=True)
class FoundMember:
    """A member of a client. `ref`: the client's own id of it, and the customer to whom rewards are issued."""

    id: UUID
    client_id: UUID
    ref: str | None
    erased_at: datetime | None

    @property
    def customer(self) -> str:
        """The id of the customer to whom codes are issued that the member takes."""
        return self.ref or str(self.id)


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """One line. `at` None: no time is stored. `code`: what it is about; None: an account or a card of `member_id`.

    `points`: a number of the program's unit as text. `note`: what else is known, for people.
    """

    at: datetime | None
    kind: EventKind
    code: CodeName | None = None
    customer_id: UUID | None = None
    customer: str | None = None
    order_id: str | None = None
    use_id: str | None = None
    program: str | None = None
    member_id: UUID | None = None
    points: str | None = None
    note: str = ""


@dataclass(slots=True)
class Found:
    """Everything that a text has found. `events`: the newest first. `cut`: there are more than are listed."""

    by: dict[FoundBy, int] = field(default_factory=dict)
    codes: Sequence[FoundCode] = ()
    members: Sequence[FoundMember] = ()
    events: Sequence[FoundEvent] = ()
    cut: bool = False


def mask_code(code: str) -> str:
    """Return a code of which only the end is shown, as on the receipt of a payment card."""
    return _HIDDEN + code[len(code) - min(_SHOWN, len(code) // 2) :]
