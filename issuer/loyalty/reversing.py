"""Reversals: refunds of orders take points back, an undo of a debit restores points, an undo of an earn takes them."""

from __future__ import annotations

from dataclasses import replace

from issuer.loyalty.account import EntryId, EntryOp, MoveState, OrderKey, PointsBucket, PointsEntry
from issuer.loyalty.book import Book, split
from issuer.loyalty.days import local_day
from issuer.loyalty.operations import OrderRef, TakeBack, Undo
from issuer.loyalty.outcome import RefusalCode
from issuer.loyalty.terms import OnRefund

_DEBITS = (EntryOp.SPEND, EntryOp.CAPTURE)
_EARNS = (EntryOp.EARN, EntryOp.EARN_PENDING)


def take_back(book: Book, operation: TakeBack) -> None:
    """Refund an order, in part or whole. Refunds are cumulative: many small ones take as much as one of their sum."""
    key = (operation.order.source, operation.order.order_id)
    order = book.orders.get(key)
    if order is None or order.account_id != book.before.id:
        raise book.refuse(RefusalCode.ORDER_NOT_FOUND)
    left = order.amount_minor - order.refunded_minor
    if left == 0:
        raise book.refuse(RefusalCode.ALREADY_REVERSED)
    # A shop refunds more than it was paid for the goods when it refunds shipping, too.
    refunded = order.refunded_minor + min(
        left, left if operation.amount_refunded is None else operation.amount_refunded
    )
    kept = order.points * (order.amount_minor - refunded) // order.amount_minor
    points = max(0, order.points - kept - order.reversed)
    book.orders[key] = replace(order, refunded_minor=refunded, reversed=order.reversed + points)
    _take(book, order.earned, points, order.on_refund, key, operation.reason)


def undo(book: Book, operation: Undo) -> None:
    """Reverse an entry of this account, in part or whole, and never more of it than there is."""
    entry_id = EntryId(book.before.id, operation.entry_seq)
    entry = book.before.entries.get(entry_id)
    if entry is None:
        raise book.refuse(RefusalCode.ENTRY_NOT_FOUND)
    if entry.op in _EARNS and entry.order is not None:
        # How much of an order is left is decided by what was refunded of it.
        if operation.points is not None:
            raise book.refuse(RefusalCode.NOT_REVERSIBLE)
        take_back(book, TakeBack(OrderRef(*entry.order), reason=operation.reason))
        return
    is_movable = entry.move_id == operation.move_id and entry.seq > book.before.merged_seq
    if entry.op not in (*_DEBITS, *_EARNS) or not is_movable:
        # A purchase is undone with its move only, and what a merge has moved is not here any more.
        raise book.refuse(RefusalCode.NOT_REVERSIBLE)
    before = book.reversed.get(entry_id, 0)
    left = entry.points - before
    points = left if operation.points is None else operation.points
    if left == 0 or points > left:
        raise book.refuse(RefusalCode.ALREADY_REVERSED, points)
    book.reversed[entry_id] = before + points
    if entry.op in _EARNS:
        _take(book, entry_id, points, book.program.terms.on_refund, None, operation.reason)
    else:
        _restore(book, entry, before, points, operation)


def _restore(book: Book, entry: PointsEntry, before: int, points: int, operation: Undo) -> None:
    """Restore points of a debit with their old expiry: what was taken last first, as if less had been taken."""
    if operation.move_id is not None:
        if book.moves.get(operation.move_id) is not MoveState.DEBITED:
            raise book.refuse(RefusalCode.MOVE_SETTLED)
        book.moves[operation.move_id] = MoveState.UNDONE
    untouched, _ = split(entry.buckets, entry.points - before)
    _, restored = split(untouched, entry.points - before - points)
    if _is_of_today(book, entry):
        book.day_spent -= min(book.day_spent, points)
    book.credit(restored)
    book.post(
        EntryOp.UNDO, points, reverses_seq=entry.seq, reason=operation.reason, move_id=entry.move_id,
        hold_id=entry.hold_id,
    )  # fmt: skip


def _take(
    book: Book, earned: EntryId, points: int, on_refund: OnRefund, key: OrderKey | None, reason: str | None
) -> None:
    """Take earned points back: what is pending of them first, then of the whole account, the rest as debt.

    Under clamp the rest is written off, in an entry of its own. There is at least one entry, also for 0 points.
    """
    values = {
        "order": key,
        "reason": reason,
        "reverses_seq": earned.seq if earned.account_id == book.before.id else None,
    }
    first = book.before.entries.get(earned)
    if first is not None and _is_of_today(book, first):
        book.day_earned -= min(book.day_earned, points)
    pending = book.pendings.get(earned)
    from_pending = 0 if pending is None else min(points, pending.points)
    if pending is not None and from_pending:
        del book.pendings[earned]
        if from_pending < pending.points:
            book.pendings[earned] = replace(pending, points=pending.points - from_pending)
        book.pending -= from_pending
        book.lifetime -= from_pending
        book.post(EntryOp.TAKE_BACK_PENDING, from_pending, **values)
    rest = points - from_pending
    if rest or not from_pending:
        owed = book.debt
        book.lifetime -= rest
        taken: tuple[PointsBucket, ...] = book.take_or_owe(rest)
        book.post(EntryOp.TAKE_BACK, rest, buckets=taken, **values)
        if on_refund is OnRefund.CLAMP and book.debt > owed:
            written_off = book.debt - owed
            book.debt = owed
            book.post(EntryOp.WRITE_OFF, written_off, **values)


def _is_of_today(book: Book, entry: PointsEntry) -> bool:
    return local_day(entry.occurred_at, book.zone) == book.today
