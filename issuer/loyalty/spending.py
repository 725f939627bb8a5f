"""Debits that a member asks for: spending, and holds with their capture and release."""

from __future__ import annotations

from issuer.loyalty.account import EntryOp, Hold, HoldState, MoveState
from issuer.loyalty.book import Book, split
from issuer.loyalty.bounds import MAX_HOLDS
from issuer.loyalty.days import end_of_day
from issuer.loyalty.operations import CaptureHold, PlaceHold, ReleaseHold, Spend
from issuer.loyalty.outcome import RefusalCode


def spend(book: Book, operation: Spend) -> None:
    """Take the points, all or none."""
    _check(book, operation.points)
    taken = book.take(operation.points)
    book.day_spent += operation.points
    move_id = None
    if operation.move is not None:
        move_id = operation.move.id
        book.moves[move_id] = MoveState.DEBITED
    book.post(EntryOp.SPEND, operation.points, reason=operation.reason, move_id=move_id, buckets=taken)


def place_hold(book: Book, operation: PlaceHold) -> None:
    """Reserve the points. Held points count as spent for the limits until they are released."""
    if operation.hold_id in book.holds:
        raise book.refuse(RefusalCode.HOLD_SETTLED)
    if operation.expires_at <= book.now:
        raise book.refuse(RefusalCode.HOLD_EXPIRED)
    _check(book, operation.points)
    if book.open_holds >= MAX_HOLDS:
        raise book.refuse(RefusalCode.LIMIT_REACHED, operation.points)
    taken = book.take(operation.points)
    book.held += operation.points
    entry = book.post(EntryOp.HOLD, operation.points, reason=operation.reason, hold_id=operation.hold_id)
    book.holds[operation.hold_id] = Hold(operation.hold_id, operation.points, operation.expires_at, taken, entry.seq)


def capture_hold(book: Book, operation: CaptureHold) -> None:
    """Take points of a hold, soonest first, and release the rest. A debt does not matter: they were granted before."""
    hold = _open(book, operation.hold_id)
    points = hold.points if operation.points is None else operation.points
    if points > hold.points:
        raise book.refuse(RefusalCode.HOLD_EXCEEDED, points)
    taken, rest = split(hold.buckets, points)
    book.settle(hold, HoldState.CAPTURED, points)
    book.held -= points
    book.day_spent += points
    book.post(EntryOp.CAPTURE, points, hold_id=hold.id, buckets=taken)
    if rest:
        book.held -= hold.points - points
        book.credit(rest)
        book.post(EntryOp.RELEASE, hold.points - points, hold_id=hold.id)


def release_hold(book: Book, operation: ReleaseHold) -> None:
    """Make the points of a hold available again, with their expiry; a debt is paid first."""
    hold = _open(book, operation.hold_id)
    book.settle(hold, HoldState.RELEASED)
    book.held -= hold.points
    book.credit(hold.buckets)
    book.post(EntryOp.RELEASE, hold.points, hold_id=hold.id)


def _check(book: Book, points: int) -> None:
    """Refuse a debit that the program, the balance or a limit does not allow."""
    terms = book.program.terms
    if not book.program.is_active:
        raise book.refuse(RefusalCode.PROGRAM_PAUSED)
    if book.debt or book.available < points:
        raise book.refuse(RefusalCode.INSUFFICIENT_POINTS, points)
    if points < terms.min_spend:
        raise book.refuse(RefusalCode.BELOW_MINIMUM, points)
    if terms.limits.spend_entry is not None and points > terms.limits.spend_entry:
        raise book.refuse(RefusalCode.LIMIT_REACHED, points)
    if terms.limits.spend_day is not None and book.day_spent + book.held + points > terms.limits.spend_day:
        raise book.refuse(RefusalCode.LIMIT_REACHED, points, end_of_day(book.today, book.zone))


def _open(book: Book, hold_id: object) -> Hold:
    hold = book.holds.get(hold_id)
    if hold is None:
        raise book.refuse(RefusalCode.HOLD_NOT_FOUND)
    if hold.state is HoldState.EXPIRED:
        raise book.refuse(RefusalCode.HOLD_EXPIRED)
    if hold.state is not HoldState.OPEN:
        raise book.refuse(RefusalCode.HOLD_SETTLED)
    return hold
