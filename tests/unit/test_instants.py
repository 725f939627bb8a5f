"""Instants: bounded and rounded up, without an overflow at either end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest

from issuer.instants import (
    BOUNDS,
    FIRST,
    LAST,
    InvalidInstantError,
    OutOfBoundsError,
    from_ms,
    in_utc,
    instant_of_timestamp,
    parse_instant,
    show_instant,
    to_ms,
)
from issuer.paging import InvalidCursorError, decode_cursor, encode_cursor

LAST_MS = 253_402_128_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("1970-01-01T14:00:00+14:00", "1970-01-01T00:00:00.000Z"),
        ("9999-12-30T00:00:00Z", "9999-12-30T00:00:00.000Z"),
        ("9999-12-30T23:59:59+23:59:59", "9999-12-30T00:00:00.000Z"),
        ("9999-12-29T23:59:59.999001Z", "9999-12-30T00:00:00.000Z"),
        ("2026-06-01T00:00:00.000001+02:00", "2026-05-31T22:00:00.001Z"),
        ("2026-06-01T00:00:00.001Z", "2026-06-01T00:00:00.001Z"),
    ],
)
def test_an_instant_within_the_bounds_is_rounded_up_to_a_millisecond(text: str, shown: str) -> None:
    assert show_instant(parse_instant(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "1969-12-31T23:59:59.999999Z", "1970-01-01T00:00:00+00:01", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z",
        "9999-12-30T00:00:00.000001Z", "9999-12-30T00:00:00-00:01", "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.999999-23:59",
    ],
)  # fmt: skip
def test_an_instant_outside_the_bounds_is_refused_with_them(text: str) -> None:
    with pytest.raises(OutOfBoundsError, match=BOUNDS):
        parse_instant(text)


@pytest.mark.parametrize("value", [datetime.max, datetime.min, datetime(2026, 6, 1)])  # noqa: DTZ001, DTZ901
def test_a_time_without_an_offset_is_refused(value: datetime) -> None:
    with pytest.raises(InvalidInstantError, match="offset"):
        in_utc(value)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=23)), timezone(timedelta(hours=-23))])
def test_both_ends_of_the_calendar_are_refused_in_every_zone(zone: timezone) -> None:
    for end in (datetime.max, datetime.min):  # noqa: DTZ901
        with pytest.raises(OutOfBoundsError):
            in_utc(end.replace(tzinfo=zone))


def test_a_timestamp_is_rounded_up_and_bounded() -> None:
    last_s = LAST_MS // 1000
    assert instant_of_timestamp(0, 1) == from_ms(1)
    assert instant_of_timestamp(last_s - 1, 999_000_001) == LAST
    for seconds, nanoseconds in ((last_s, 1), (last_s + 172_799, 999_500_000), (-1, 0), (2**63 - 1, 0), (-(2**63), 0)):
        with pytest.raises(OutOfBoundsError):
            instant_of_timestamp(seconds, nanoseconds)


@pytest.mark.parametrize("ms", [-(2**63), -1, 0, 1, LAST_MS - 1, LAST_MS, LAST_MS + 1, 2**63 - 1, 2**200])
def test_no_time_of_redis_overflows(ms: int) -> None:
    instant = from_ms(ms)
    assert FIRST <= instant <= LAST
    assert to_ms(instant) == min(max(ms, 0), LAST_MS)
    assert show_instant(instant).endswith("Z")


def test_a_cursor_keeps_microseconds_and_has_the_bounds() -> None:
    position = (datetime(2026, 6, 1, 0, 0, 0, 123_456, UTC), uuid4())
    assert decode_cursor("batches", encode_cursor("batches", position), (datetime, type(position[1]))) == position
    for microseconds in (-1, LAST_MS * 1000 + 1, 2**62, -(2**63)):
        with pytest.raises(InvalidCursorError):
            decode_cursor("batches", encode_cursor("batches", (microseconds,)), (datetime,))
