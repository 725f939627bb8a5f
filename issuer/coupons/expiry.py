"""Expiry dates of coupons: an instant, or a day, at whose end in UTC the coupon expires."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from issuer.instants import InvalidInstantError, OutOfBoundsError, instant_after_day, instant_of_day, parse_instant

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY: Final = re.compile(
    r"(?:([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})|([0-9]{4})-([0-9]{2})-([0-9]{2}))"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?",
    re.ASCII,
)
"""A day in one of its two spellings, and a time of it without an offset."""
_SHAPES: Final = (
    "a day such as 15-Jan-2030 or 2030-01-15, or a time such as 2030-01-15T18:00:00+01:00 or, in UTC, 2030-01-15"
    " 18:00:00"
)
_NEVER: Final = (9999, 12, 31)
"""The last day of calendars, by which databases say that there is no end."""


def parse_expiry(text: str) -> datetime | None:
    """Return the first instant at which the coupon is not valid any more; None: there is none.

    A day is that of UTC, and so is a time without an offset, as the predecessor stores them. Raises
    InvalidInstantError.
    """
    text = text.strip()
    match = _DAY.fullmatch(text)
    try:
        return parse_instant(text) if match is None else _after_day_or_at_time(match)
    except OutOfBoundsError:
        raise
    except InvalidInstantError as error:
        raise InvalidInstantError(f"{error}; give {_SHAPES}") from error


def _after_day_or_at_time(match: re.Match[str]) -> datetime | None:
    named_day, month_name, named_year, year, month, day, *time = match.groups()
    if month_name is None:
        date = int(year), int(month), int(day)
    elif month_name.lower() in _MONTHS:
        date = int(named_year), 1 + _MONTHS.index(month_name.lower()), int(named_day)
    else:
        raise InvalidInstantError("there is no such month")
    if date == _NEVER:
        return None
    if time[0] is None:
        return instant_after_day(*date)
    return instant_of_day(*date, *(int(part or 0) for part in time))
