"""Transfers between two accounts: points leave one and reach the other with their expiry. A merge moves everything."""

from __future__ import annotations

from issuer.loyalty.account import EntryOp, MoveState
from issuer.loyalty.book import Book, total
from issuer.loyalty.operations import MoveKind, TransferIn, TransferOut
from issuer.loyalty.outcome import RefusalCode


def transfer_out(book: Book, operation: TransferOut) -> TransferIn:
    """Take the points from the source; return what the target receives."""
    move = operation.move
    book.moves[move.id] = MoveState.DONE
    if operation.merge:
        return _merge_out(book, operation)
    if not book.program.is_active:
        raise book.refuse(RefusalCode.PROGRAM_PAUSED)
    if book.debt or book.available < operation.points:
        raise book.refuse(RefusalCode.INSUFFICIENT_POINTS, operation.points)
    taken = book.take(operation.points)
    book.post(EntryOp.TRANSFER_OUT, operation.points, buckets=taken, move_id=move.id, reason=operation.reason)
    return TransferIn(move, taken, reason=operation.reason)


def _merge_out(book: Book, operation: TransferOut) -> TransferIn:
    if book.open_holds:
        raise book.refuse(RefusalCode.HOLDS_OPEN)
    values = {"move_id": operation.move.id, "reason": operation.reason}
    lifetime, book.lifetime = book.lifetime, 0
    if lifetime:
        book.post(EntryOp.LIFETIME_OUT, lifetime, **values)
    pendings = tuple(book.pendings.values())
    book.pendings.clear()
    pending, book.pending = book.pending, 0
    if pending:
        book.post(EntryOp.PENDING_OUT, pending, **values)
    points = book.available
    taken = book.take(points)
    if points:
        book.post(EntryOp.TRANSFER_OUT, points, buckets=taken, **values)
    debt, book.debt = book.debt, 0
    if debt:
        book.post(EntryOp.DEBT_OUT, debt, **values)
    book.merged_seq = book.seq
    return TransferIn(operation.move, taken, debt, pendings, lifetime, operation.reason)


def transfer_in(book: Book, operation: TransferIn) -> None:
    """Receive what was moved. The target's own debt is paid first; a debt that is moved is then paid or added."""
    values = {"move_id": operation.move.id, "reason": operation.reason}
    points = total(operation.buckets)
    if operation.move.kind is not MoveKind.MERGE:
        _check(book, points)
    if operation.lifetime:
        book.lifetime += operation.lifetime
        book.post(EntryOp.LIFETIME_IN, operation.lifetime, **values)
    if operation.pendings:
        for pending in operation.pendings:
            book.pendings[pending.earned] = pending
        moved = sum(pending.points for pending in operation.pendings)
        book.pending += moved
        book.post(EntryOp.PENDING_IN, moved, **values)
    if points:
        book.credit(operation.buckets)
        book.post(EntryOp.TRANSFER_IN, points, **values)
    if operation.debt:
        taken = book.take_or_owe(operation.debt)
        book.post(EntryOp.DEBT_IN, operation.debt, buckets=taken, **values)


def _check(book: Book, points: int) -> None:
    if not book.program.is_active:
        raise book.refuse(RefusalCode.PROGRAM_PAUSED)
    most = book.program.terms.max_balance
    if most is not None and book.available + book.held + book.pending - book.debt + points > most:
        raise book.refuse(RefusalCode.LIMIT_REACHED, points)
