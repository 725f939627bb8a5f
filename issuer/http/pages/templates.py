"""Templates of pages. They escape every value and are translated."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, partial

from babel.dates import format_datetime
from babel.numbers import format_decimal
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from issuer.http.pages.languages import SOURCE, translations_of


def show_instant(instant: datetime, language: str) -> str:
    """Return an instant for people, in UTC."""
    return format_datetime(instant.astimezone(UTC), "d MMMM y HH:mm 'UTC'", locale=language)


@cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("issuer.http", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(translations_of(language), newstyle=True)  # type: ignore[attr-defined]
    environment.filters["number"] = partial(format_decimal, locale=language)
    environment.filters["instant"] = partial(show_instant, language=language)
    return environment


def template(name: str, language: str = SOURCE) -> Template:
    """Return a template by its path below issuer/http/, such as `docs/docs.html`."""
    return _environment(language).get_template(name)
