"""Instants: parsed and bounded here, whatever way they come in; stored in UTC, computed and shown in milliseconds.

Every instant that comes in is a whole millisecond from FIRST to LAST. Within these bounds nothing overflows: Python
ends with the year 9999, and a day remains for every offset. The driver of Postgres would store the last microsecond of
Python's calendar as `infinity`, and read that back without an offset. The schema has the same bounds, as the domain
`instant`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FIRST: Final = EPOCH
LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)
BOUNDS: Final = f"{FIRST:%Y-%m-%dT%H:%M:%SZ} to {LAST:%Y-%m-%dT%H:%M:%SZ}"
_MS: Final = timedelta(milliseconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)
_OUTSIDE: Final = f"a time must be within {BOUNDS}"


class InvalidInstantError(ValueError):
    """The text or time is not an instant. The message says why."""


class OutOfBoundsError(InvalidInstantError):
    """The instant is before FIRST or after LAST. The message names the bounds."""

    def __init__(self) -> None:
        super().__init__(_OUTSIDE)


# In a form or a query an unencoded + is a space.
_SPACE_FOR_PLUS: Final = re.compile(r"(\S+[T ]\S+) ([0-9]{2}(?::?[0-9]{2})?)", re.ASCII)


def parse_instant(text: str) -> datetime:
    """Parse ISO 8601 text such as 2026-06-01T00:00:00+02:00, as `in_utc` does. Raises InvalidInstantError.

    A space in place of the + is read as one.
    """
    if (match := _SPACE_FOR_PLUS.fullmatch(text)) is not None:
        text = f"{match[1]}+{match[2]}"
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInstantError("not an ISO 8601 time such as 2026-06-01T00:00:00+02:00") from error
    return in_utc(value)


def in_utc(value: datetime) -> datetime:
    """Return the same instant in UTC, rounded up to a whole ms. Raises InvalidInstantError.

    Redis decides in whole ms, so rounding up is exact: it changes no comparison with such a time.
    """
    if value.utcoffset() is None:
        raise InvalidInstantError("a time needs an offset, such as Z or +02:00")
    try:
        instant = value.astimezone(UTC)
    except OverflowError as error:
        raise OutOfBoundsError from error
    # The bounds first: both are whole ms, so rounding cannot pass them.
    if not FIRST <= instant <= LAST:
        raise OutOfBoundsError
    return instant + timedelta(microseconds=-instant.microsecond % 1000)


def instant_of_timestamp(seconds: int, nanoseconds: int) -> datetime:
    """Return the instant of a Protobuf timestamp, rounded up to a whole ms. Raises OutOfBoundsError."""
    try:
        return in_utc(EPOCH + timedelta(seconds=seconds, microseconds=-(-nanoseconds // 1_000)))
    except OverflowError as error:
        raise OutOfBoundsError from error


def instant_of_day(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    """Return the instant of a time in UTC, by default of 00:00. Raises InvalidInstantError if there is no such one."""
    try:
        value = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise InvalidInstantError("there is no such day or time") from error
    return in_utc(value)


def instant_after_day(year: int, month: int, day: int) -> datetime:
    """Return the first instant after a day in UTC. Raises InvalidInstantError if there is no such day."""
    return in_utc(instant_of_day(year, month, day) + timedelta(days=1))


def to_microseconds(value: datetime) -> int:
    """Return µs since 1970: the position of a row in a list."""
    return (value - EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the instant of `to_microseconds`, not rounded. Raises OutOfBoundsError."""
    if not 0 <= microseconds <= to_microseconds(LAST):
        raise OutOfBoundsError
    return EPOCH + microseconds * _MICROSECOND


def to_ms(value: datetime) -> int:
    """Return ms since 1970, computed with integers only."""
    return (value - EPOCH) // _MS


def from_ms(ms: int) -> datetime:
    """Return the instant of a time that Redis has stated; beyond the bounds the nearer bound.

    To show or to copy such a time never fails, whatever the clock of Redis' host says.
    """
    return EPOCH + min(max(ms, 0), to_ms(LAST)) * _MS


def show_instant(value: datetime) -> str:
    """Return ISO 8601 in UTC with ms, as the API and the exports show instants."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
