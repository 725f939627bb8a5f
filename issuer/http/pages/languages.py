"""The languages of pages: which one a visitor gets, and its message catalogue.

Messages are written in English, in the templates. `catalogues/LANGUAGE.po` has those of another language and is
compiled when it is first used. `make messages` brings the catalogues up to date with the templates.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Final

from babel.core import negotiate_locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import NullTranslations, Translations
from starlette.requests import Request

from issuer.http.pages.cookies import read_cookie

SOURCE: Final = "en"
NAMES: Final = {SOURCE: "English", "de": "Deutsch"}
"""Each language in its own words."""
LANGUAGES: Final = tuple(NAMES)
LANGUAGE_COOKIE: Final = "language"
MAX_RANGES: Final = 20
"""Languages of one Accept-Language that are looked at."""


def language_of(accept_language: str) -> str:
    """Return the language among LANGUAGES that an Accept-Language prefers (RFC 9110, section 12.5.4)."""
    ranges = []
    for item in accept_language.split(",")[:MAX_RANGES]:
        name, _, weight = item.partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if quality > 0:
            ranges.append((quality, name.strip()))
    # The sort is stable: of equal weights the first one counts.
    preferred = [name for _, name in sorted(ranges, key=lambda one: -one[0])]
    return negotiate_locale(preferred, LANGUAGES, sep="-") or SOURCE


def language_for(request: Request) -> str:
    """Return the language of a visitor: the one that was chosen on a page, or that of the browser."""
    chosen = read_cookie(request, LANGUAGE_COOKIE)
    return chosen if chosen in LANGUAGES else language_of(request.headers.get("accept-language", ""))


@cache
def translations_of(language: str) -> NullTranslations:
    """Return the messages of a language."""
    if language == SOURCE:
        return NullTranslations()
    text = files("issuer.http.pages").joinpath("catalogues", f"{language}.po").read_bytes()
    compiled = BytesIO()
    write_mo(compiled, read_po(BytesIO(text), locale=language))
    compiled.seek(0)
    return Translations(compiled)
