"""The effect of each kind of entry on the figures of an account: what the ledger must add up to.

Every entry changes `available + held - debt`, `pending` and `lifetime` by its points or not at all. The audit checks
the whole ledger against this one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from issuer.loyalty.account import EntryOp


class Effect(NamedTuple):
    """By how many times its points an entry changes each figure. `balance`: available + held - debt."""

    balance: int
    pending: int
    lifetime: int


_NONE: Final = Effect(0, 0, 0)

EFFECTS: Final[Mapping[EntryOp, Effect]] = {
    EntryOp.EARN: Effect(+1, 0, +1),
    EntryOp.EARN_PENDING: Effect(0, +1, +1),
    EntryOp.MATURE: Effect(+1, -1, 0),
    EntryOp.SPEND: Effect(-1, 0, 0),
    EntryOp.HOLD: _NONE,
    EntryOp.CAPTURE: Effect(-1, 0, 0),
    EntryOp.RELEASE: _NONE,
    EntryOp.HOLD_EXPIRED: _NONE,
    EntryOp.EXPIRE: Effect(-1, 0, 0),
    EntryOp.TAKE_BACK: Effect(-1, 0, -1),
    EntryOp.TAKE_BACK_PENDING: Effect(0, -1, -1),
    EntryOp.WRITE_OFF: Effect(+1, 0, 0),
    EntryOp.UNDO: Effect(+1, 0, 0),
    EntryOp.ADJUST_UP: Effect(+1, 0, 0),
    EntryOp.ADJUST_DOWN: Effect(-1, 0, 0),
    EntryOp.TRANSFER_OUT: Effect(-1, 0, 0),
    EntryOp.TRANSFER_IN: Effect(+1, 0, 0),
    EntryOp.DEBT_OUT: Effect(+1, 0, 0),
    EntryOp.DEBT_IN: Effect(-1, 0, 0),
    EntryOp.PENDING_OUT: Effect(0, -1, 0),
    EntryOp.PENDING_IN: Effect(0, +1, 0),
    EntryOp.LIFETIME_OUT: Effect(0, 0, -1),
    EntryOp.LIFETIME_IN: Effect(0, 0, +1),
}
