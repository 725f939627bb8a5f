"""Days of a program's time zone: when points expire or become available, and when a day's limits begin again.

All of it is computed once, when points are earned, and stored in UTC: a later change of the zone, of its rules or of
the terms moves nothing.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from issuer.loyalty.bounds import NEVER
from issuer.loyalty.terms import Expiry, ExpiryRule


def local_day(now: datetime, zone: ZoneInfo) -> date:
    """Return the day of an instant in a time zone."""
    return now.astimezone(zone).date()


def end_of_day(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant after a day, in UTC: the midnight that follows, or where the clocks skip it, the next.

    NEVER if that is beyond the bounds of instants.
    """
    if day.year >= NEVER.year:
        return NEVER
    after = day + timedelta(days=1)
    # Of a midnight that comes twice, the first; one that is skipped is read with the offset before the gap, which is
    # the instant of the change itself.
    midnight = datetime(after.year, after.month, after.day, tzinfo=zone)
    return midnight.astimezone(UTC)


def add_months(day: date, months: int) -> date:
    """Return the same day of a later month, or its last day where it is shorter: 31 January + 1 is 28 February."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def expiry_of(rule: Expiry, now: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant at which points earned now expire, exclusive."""
    if rule.rule is ExpiryRule.NEVER:
        return NEVER
    day = local_day(now, zone)
    if rule.rule is ExpiryRule.DAYS:
        return end_of_day(day + timedelta(days=rule.count), zone)
    if rule.rule is ExpiryRule.MONTHS:
        return end_of_day(add_months(day, rule.count), zone)
    return end_of_day(date(day.year + rule.count, 12, 31), zone)
