"""Adjustments by staff: points are added or taken, with a reason."""

from __future__ import annotations

from issuer.loyalty.account import EntryOp, PointsBucket
from issuer.loyalty.book import Book
from issuer.loyalty.days import expiry_of
from issuer.loyalty.operations import Adjust, SetPoints
from issuer.loyalty.outcome import RefusalCode


def adjust(book: Book, operation: Adjust) -> None:
    """Add points with the expiry of the terms, or take them; below zero only with `allow_debt`."""
    if not operation.reason.strip():
        raise book.refuse(RefusalCode.REASON_NEEDED)
    if operation.points > 0:
        expires_at = expiry_of(book.program.terms.expiry, book.now, book.zone)
        book.credit((PointsBucket(expires_at, operation.points),))
        book.post(EntryOp.ADJUST_UP, operation.points, reason=operation.reason)
        return
    points = -operation.points
    if points > book.available and not operation.allow_debt:
        raise book.refuse(RefusalCode.INSUFFICIENT_POINTS, points)
    taken = book.take_or_owe(points)
    book.post(EntryOp.ADJUST_DOWN, points, reason=operation.reason, buckets=taken)


def set_points(book: Book, operation: SetPoints) -> None:
    """Adjust available − debt to a number; it becomes negative, which is a debt, only if the number is."""
    difference = operation.points - (book.available - book.debt)
    if difference:
        adjust(book, Adjust(difference, operation.reason, allow_debt=True))
