"""Expiry dates of coupons: an instant, or a day, at whose end in UTC the coupon expires."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from issuer.instants import InvalidInstantError, OutOfBoundsError, instant_after_day, parse_instant

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED_MONTH: Final = re.compile(r"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})", re.ASCII)
_DAY: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
_SHAPES: Final = "a day such as 15-Jan-2030 or 2030-01-15, or a time such as 2030-01-15T18:00:00+01:00"


def parse_expiry(text: str) -> datetime:
    """Return the first instant at which the coupon is not valid any more. Raises InvalidInstantError."""
    text = text.strip()
    day = _parse_day(text)
    try:
        return parse_instant(text) if day is None else instant_after_day(*day)
    except OutOfBoundsError:
        raise
    except InvalidInstantError as error:
        raise InvalidInstantError(f"{error}; give {_SHAPES}") from error


def _parse_day(text: str) -> tuple[int, int, int] | None:
    """Return year, month and day; None if the text has neither form."""
    if (match := _NAMED_MONTH.fullmatch(text)) is not None and match[2].lower() in _MONTHS:
        return int(match[3]), 1 + _MONTHS.index(match[2].lower()), int(match[1])
    if (match := _DAY.fullmatch(text)) is not None:
        return int(match[1]), int(match[2]), int(match[3])
    return None
