"""Due things: holds expire, pending points become available, points expire. Each is an entry of its own.

They happen in the order of their instants, so that it makes no difference when an account is touched: one late sweep
leaves the same figures as a sweep at every instant. At the same instant holds come first, then pending points, then the
expiry of points, which then includes what the first two have brought back too late.
"""

from __future__ import annotations

from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import Final

from issuer.loyalty.account import EntryId, EntryOp, Hold, HoldState, Pending, PointsBucket
from issuer.loyalty.book import Book

_HOLD: Final = 0
_PENDING: Final = 1
_BUCKET: Final = 2

_Due = tuple[datetime, int, EntryId]


def do_due(book: Book) -> None:
    """Post everything that is due at the instant of the book."""
    now, account_id = book.now, book.before.id
    if not book.holds and not book.pendings and (not book.buckets or book.buckets[0].expires_at > now):
        return  # as nearly always
    open_holds = (hold for hold in book.holds.values() if hold.state is HoldState.OPEN and hold.expires_at <= now)
    holds = {EntryId(account_id, hold.seq): hold for hold in open_holds}
    due: list[_Due] = [(hold.expires_at, _HOLD, entry_id) for entry_id, hold in holds.items()]
    due += [(one.available_at, _PENDING, one.earned) for one in book.pendings.values() if one.available_at <= now]
    due += [(bucket.expires_at, _BUCKET, EntryId(0, 0)) for bucket in book.buckets if bucket.expires_at <= now]
    heapify(due)
    while due:
        at, kind, key = heappop(due)
        if kind == _BUCKET:
            _expire(book, at)
            continue
        returned = _expire_hold(book, holds[key]) if kind == _HOLD else _mature(book, book.pendings[key])
        for bucket in returned:
            if bucket.expires_at <= now:
                heappush(due, (bucket.expires_at, _BUCKET, EntryId(0, 0)))


def _expire_hold(book: Book, hold: Hold) -> tuple[PointsBucket, ...]:
    book.settle(hold, HoldState.EXPIRED)
    book.held -= hold.points
    book.credit(hold.buckets)
    book.post(EntryOp.HOLD_EXPIRED, hold.points, hold_id=hold.id)
    return hold.buckets


def _mature(book: Book, pending: Pending) -> tuple[PointsBucket, ...]:
    del book.pendings[pending.earned]
    book.pending -= pending.points
    bucket = PointsBucket(pending.expires_at, pending.points)
    book.credit((bucket,))
    book.post(EntryOp.MATURE, pending.points)
    return (bucket,)


def _expire(book: Book, at: datetime) -> None:
    # Several events may name the same instant, and debts may have taken what was there.
    if book.buckets and book.buckets[0].expires_at == at:
        taken = book.take(book.buckets[0].points)
        book.post(EntryOp.EXPIRE, taken[0].points, buckets=taken)
