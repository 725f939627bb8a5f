"""The time zone in which a visitor reads and writes times: the one of the browser, which a script keeps in a cookie."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote
from zoneinfo import ZoneInfo, available_timezones

from babel.dates import format_datetime
from jinja2 import pass_context
from jinja2.runtime import Context
from starlette.requests import Request

from issuer.instants import InvalidInstantError, in_utc

ZONE_COOKIE: Final = "zone"
FALLBACK: Final = "UTC"
COMMON: Final = (
    "UTC", "Europe/London", "Europe/Lisbon", "Europe/Madrid", "Europe/Paris", "Europe/Berlin", "Europe/Vienna",
    "Europe/Zurich", "Europe/Rome", "Europe/Warsaw", "Europe/Stockholm", "Europe/Athens", "Europe/Helsinki",
    "Europe/Kyiv", "Europe/Istanbul", "Africa/Lagos", "Africa/Cairo", "Africa/Johannesburg", "Asia/Dubai",
    "Asia/Kolkata", "Asia/Bangkok", "Asia/Singapore", "Asia/Shanghai", "Asia/Tokyo", "Asia/Seoul", "Australia/Sydney",
    "Pacific/Auckland", "America/New_York", "America/Toronto", "America/Chicago", "America/Denver",
    "America/Los_Angeles", "America/Mexico_City", "America/Bogota", "America/Sao_Paulo",
)  # fmt: skip
"""What a form offers beside the visitor's own: a zone of each offset where many people live."""


def zone_of(request: Request) -> str:
    """Return the name of the visitor's time zone."""
    return known_zone(unquote(request.cookies.get(ZONE_COOKIE, ""))) or FALLBACK


@lru_cache(maxsize=512)
def known_zone(name: str) -> str | None:
    """Return the name of a time zone; None: there is none of this name."""
    return name if name in available_timezones() else None


def zone_options(zone: str) -> list[tuple[str, str]]:
    """Return values and labels of a choice of zones."""
    return [(name, name.replace("_", " ")) for name in (*([] if zone in COMMON else [zone]), *COMMON)]


def show_zoned(instant: datetime, zone: str) -> str:
    """Return an instant for people in a time zone, which it names: Fri 27 Nov 2026, 10:00 CET."""
    return str(format_datetime(instant, "EEE d MMM y, HH:mm z", tzinfo=ZoneInfo(zone), locale="en_GB"))


def local_input(instant: datetime | None, zone: str) -> str:
    """Return an instant as the value of a datetime-local field of a form."""
    return "" if instant is None else instant.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M")


def typed_instant(text: str, zone: str) -> datetime | None:
    """Return the instant that was typed in a datetime-local field; None: the field is empty.

    Raises InvalidInstantError, also for a time that the clocks of the zone skip.
    """
    if not text:
        return None
    if known_zone(zone) is None:
        raise InvalidInstantError("choose a time zone")
    try:
        local = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInstantError("type a date and a time") from error
    if local.tzinfo is not None:
        raise InvalidInstantError("type a date and a time")
    moment = local.replace(tzinfo=ZoneInfo(zone))
    instant = in_utc(moment)
    if moment.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != local:
        raise InvalidInstantError("the clocks skip this time: choose one an hour later")
    return instant


@pass_context
def zoned(context: Context, instant: datetime) -> str:
    """The filter `zoned`: an instant in the zone of the visitor."""
    zone: Any = context["zone"]
    return show_zoned(instant, zone)
