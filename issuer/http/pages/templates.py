"""Templates of pages. They escape every value and are translated."""

from __future__ import annotations

from datetime import UTC, date, datetime, tzinfo
from functools import cache, partial

from babel.dates import format_date, format_datetime, format_timedelta
from babel.numbers import format_currency, format_decimal
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from issuer.http.pages.languages import SOURCE, translations_of
from issuer.http.pages.zones import zoned
from issuer.money import from_minor


def show_instant(instant: datetime, language: str) -> str:
    """Return an instant for people, in UTC."""
    return format_datetime(instant.astimezone(UTC), "d MMMM y HH:mm 'UTC'", locale=language)


def show_duration(seconds: int, language: str) -> str:
    """Return a duration for people: the nearest unit is enough."""
    return format_timedelta(seconds, threshold=1.5, locale=language)


def show_date(day: date, language: str) -> str:
    """Return a date for people."""
    return format_date(day, "d MMMM y", locale=language)


def show_money(minor: int, currency: str, language: str) -> str:
    """Return an amount in minor units for people."""
    return format_currency(from_minor(minor, currency), currency, locale=language)


def show_local_time(instant: datetime, zone: tzinfo, language: str) -> str:
    """Return an instant for people who are in this time zone."""
    return format_datetime(instant.astimezone(zone), "short", locale=language)


def capitalize_first(text: str) -> str:
    """Return a sentence that begins with a capital letter, and is otherwise unchanged."""
    return text[:1].upper() + text[1:]


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("issuer.http", package_path="."),
        # Text is the body of a mail.
        autoescape=lambda name: name is None or not name.endswith(".txt"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(translations_of(language), newstyle=True)  # type: ignore[attr-defined]
    environment.filters["number"] = partial(format_decimal, locale=language)
    environment.filters["instant"] = partial(show_instant, language=language)
    environment.filters["duration"] = partial(show_duration, language=language)
    environment.filters["money"] = partial(show_money, language=language)
    environment.filters["local_time"] = partial(show_local_time, language=language)
    environment.filters["capitalize_first"] = capitalize_first
    environment.filters["zoned"] = zoned
    environment.filters["date"] = partial(show_date, language=language)
    return environment


def template(name: str, language: str = SOURCE) -> Template:
    """Return a template by its path below issuer/http/, such as `docs/docs.html`."""
    return _environment(language).get_template(name)
