"""Earning: points for an order, once per order, or points that a caller adds."""

from __future__ import annotations

from datetime import datetime, timedelta

from issuer.loyalty.account import EntryOp, Order, Pending, PointsBucket
from issuer.loyalty.book import Book
from issuer.loyalty.bounds import MAX_POINTS
from issuer.loyalty.days import end_of_day, expiry_of
from issuer.loyalty.operations import Earn
from issuer.loyalty.outcome import RefusalCode


def earn(book: Book, operation: Earn) -> None:
    """Add the points, pending where the terms say so. Points of an order are capped by limits, others refused."""
    if not book.program.is_active:
        raise book.refuse(RefusalCode.PROGRAM_PAUSED)
    points, order = _asked(book, operation), operation.order
    room, retry_at = _room(book)
    if points > room and order is None:
        raise book.refuse(RefusalCode.LIMIT_REACHED, points, retry_at)
    points = min(points, room)
    key = None if order is None else (order.source, order.order_id)
    earned = book.next_id
    _add(book, points, key, operation.reason)
    if order is not None and key is not None:
        on_refund = book.program.terms.on_refund
        book.orders[key] = Order(order.amount_minor, points, book.before.id, earned, on_refund=on_refund)


def _asked(book: Book, operation: Earn) -> int:
    """Return the points that the operation asks for, before any limit."""
    if operation.points is not None:
        return operation.points
    rate = book.program.terms.earn
    if operation.order is None or rate is None:
        raise book.refuse(RefusalCode.NO_EARN_RATE)
    if operation.order.currency not in (None, rate.currency):
        # The terms have changed since the amount was read.
        raise book.refuse(RefusalCode.OTHER_CURRENCY)
    return rate.earned_by(operation.order.amount_minor)


def _room(book: Book) -> tuple[int, datetime | None]:
    """Return how many points may be earned now, and when a limit of the day that bounds them begins again."""
    terms = book.program.terms
    balance = book.available + book.held + book.pending
    room = min(MAX_POINTS - balance, MAX_POINTS - book.lifetime)
    if terms.max_balance is not None:
        room = min(room, terms.max_balance - balance + book.debt)
    if terms.limits.earn_entry is not None:
        room = min(room, terms.limits.earn_entry)
    retry_at = None
    if terms.limits.earn_day is not None and terms.limits.earn_day - book.day_earned < room:
        room = terms.limits.earn_day - book.day_earned
        retry_at = end_of_day(book.today, book.zone)
    return max(0, room), retry_at


def _add(book: Book, points: int, key: tuple[str, str] | None, reason: str | None) -> None:
    terms = book.program.terms
    expires_at = expiry_of(terms.expiry, book.now, book.zone)
    book.lifetime += points
    book.day_earned += points
    if terms.pending_days and points:
        day = book.today + timedelta(days=terms.pending_days)
        earned = book.next_id
        book.pendings[earned] = Pending(earned, points, end_of_day(day, book.zone), expires_at)
        book.pending += points
        book.post(EntryOp.EARN_PENDING, points, order=key, reason=reason)
        return
    if points:
        book.credit((PointsBucket(expires_at, points),))
    book.post(EntryOp.EARN, points, order=key, reason=reason)
