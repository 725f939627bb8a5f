"""The rules of the ledger as one pure function: a state and an operation give a new state and entries, or a refusal."""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from issuer.loyalty.account import AccountState
from issuer.loyalty.adjusting import adjust, set_points
from issuer.loyalty.book import Book, RefusedError
from issuer.loyalty.due import do_due
from issuer.loyalty.earning import earn
from issuer.loyalty.operations import (
    Adjust,
    CaptureHold,
    Earn,
    Operation,
    PlaceHold,
    ReleaseHold,
    SetPoints,
    Spend,
    Sweep,
    TakeBack,
    TransferIn,
    TransferOut,
    Undo,
)
from issuer.loyalty.outcome import Applied, Refusal, RefusalCode
from issuer.loyalty.program import Program
from issuer.loyalty.reversing import take_back, undo
from issuer.loyalty.spending import capture_hold, place_hold, release_hold, spend
from issuer.loyalty.transferring import transfer_in, transfer_out


def apply(state: AccountState, operation: Operation, now: datetime, program: Program) -> Applied | Refusal:
    """Decide about one operation on one account. Whatever is due happens first; a refusal changes nothing at all.

    `now` is not before anything that happened: an earlier clock counts as the instant of the latest operation. No I/O.
    """
    if isinstance(operation, Earn) and operation.order is not None:
        known = state.orders.get((operation.order.source, operation.order.order_id))
        if known is not None:
            if known.account_id != state.id or known.amount_minor != operation.order.amount_minor:
                return Refusal(RefusalCode.ORDER_DIFFERS, state.available, state.debt)
            entry = state.entries[known.earned]
            return Applied(state, (entry,), program, entry, replayed=True)
    book = Book(state, now, program)
    try:
        do_due(book)
        due = len(book.entries)
        moved = _post(book, operation)
        own = book.entries[due] if len(book.entries) > due else None
        # What the operation has brought back may have expired meanwhile.
        do_due(book)
        return Applied(book.close(), tuple(book.entries), program, own, moved=moved)
    except RefusedError as error:
        return error.refusal


def _post(book: Book, operation: Operation) -> TransferIn | None:
    match operation:
        case Earn():
            earn(book, operation)
        case Spend():
            spend(book, operation)
        case PlaceHold():
            place_hold(book, operation)
        case CaptureHold():
            capture_hold(book, operation)
        case ReleaseHold():
            release_hold(book, operation)
        case TakeBack():
            take_back(book, operation)
        case Undo():
            undo(book, operation)
        case Adjust():
            adjust(book, operation)
        case SetPoints():
            set_points(book, operation)
        case TransferOut():
            return transfer_out(book, operation)
        case TransferIn():
            transfer_in(book, operation)
        case Sweep():
            pass
        case _:
            assert_never(operation)
    return None
