"""Instants: parsed only with an offset, stored in UTC, shown with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class InvalidInstantError(ValueError):
    """The text or time is not an instant. The message says why."""


def parse_instant(text: str) -> datetime:
    """Parse ISO 8601 text such as 2026-06-01T00:00:00+02:00. Raises InvalidInstantError."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInstantError("not an ISO 8601 time such as 2026-06-01T00:00:00+02:00") from error
    return in_utc(value)


def in_utc(value: datetime) -> datetime:
    """Return the same instant in UTC. Raises InvalidInstantError without an offset, or outside 1970 to 9999."""
    if value.utcoffset() is None:
        raise InvalidInstantError("a time needs an offset, such as Z or +02:00")
    try:
        instant = value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInstantError("a time must be between 1970 and 9999") from error
    if instant < EPOCH:
        raise InvalidInstantError("a time must be between 1970 and 9999")
    return instant


def to_ms(value: datetime) -> int:
    """Return ms since 1970, computed with integers only."""
    return (value - EPOCH) // _MS


def from_ms(ms: int) -> datetime:
    return EPOCH + ms * _MS


def show_instant(value: datetime) -> str:
    """Return ISO 8601 in UTC with ms, as the API and the exports show instants."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
