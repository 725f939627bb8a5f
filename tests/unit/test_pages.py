"""Templates of pages, their messages and their language."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from issuer.http.member_pages.figures import Figures
from issuer.http.member_pages.mails import language_of_member, make_mail
from issuer.http.pages.assets import accepts_gzip
from issuer.http.pages.forms import local_path
from issuer.http.pages.languages import LANGUAGES, SOURCE, language_of, translations_of
from issuer.http.pages.page import prefers_json
from issuer.http.pages.templates import template
from issuer.loyalty.account import EntryOp, PointsEntry
from issuer.loyalty.bounds import NEVER
from issuer.loyalty.program import Program, ProgramState
from issuer.loyalty.terms import Terms

HTTP: Final = Path(__file__).parents[2] / "issuer" / "http"
CATALOGUES: Final = HTTP / "pages" / "catalogues"
TEMPLATES: Final = sorted(path for path in HTTP.rglob("*.html") if path.name != "docs.html")
"""All but /docs, which is in English as the document that it shows."""
TRANSLATED: Final = re.compile(r"{%-? *trans\b.*?{%-? *endtrans *-?%}|{%.*?%}|{{.*?}}|{#.*?#}", re.DOTALL)
SHOWN_ATTRIBUTES: Final = ("alt", "aria-label", "aria-description", "content", "placeholder", "title")


class Texts(HTMLParser):
    """The texts of a page that a visitor sees or hears."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta" or ("name", "description") in attrs:
            self.found += [value for name, value in attrs if name in SHOWN_ATTRIBUTES and value]

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def messages() -> set[str]:
    templates = ("**.html", "**_mail.txt")
    options = {name: {"newstyle_gettext": "true"} for name in templates}
    found = extract_from_dir(HTTP, [(name, "jinja2") for name in templates], options)
    # Of a message with a plural, both forms.
    return {str(tuple(filter(None, text)) if isinstance(text, tuple) else text) for _, _, text, *_ in found}


def catalogue(language: str) -> Catalog:
    return read_po(BytesIO((CATALOGUES / f"{language}.po").read_bytes()), locale=language)


def test_every_message_is_translated_into_every_language() -> None:
    wanted = messages()
    assert len(wanted) > 40
    assert {path.stem for path in CATALOGUES.glob("*.po")} == {*LANGUAGES} - {SOURCE}
    for language in {*LANGUAGES} - {SOURCE}:
        found = {str(message.id): message for message in catalogue(language) if message.id}
        assert found.keys() == wanted, f"make messages, then translate {language}.po"
        for text, message in found.items():
            assert message.string, text
            assert not message.fuzzy, text
            # The values that are put into it.
            places = re.compile(r"%\(\w+\)s|\{\w+\}")
            assert sorted(places.findall(str(message.string))) == sorted(places.findall(text))
            if isinstance(message.id, tuple):
                one, many = message.id
                shown = [translations_of(language).ngettext(one, many, count) for count in (1, 2)]
                assert shown == list(message.string)
            else:
                assert translations_of(language).gettext(text) == message.string


def test_no_text_of_a_page_is_outside_the_catalogue() -> None:
    assert len(TEMPLATES) >= 4
    bare: dict[str, list[str]] = {}
    # People who run an installation read its console in English, as they do its commands and logs.
    for path in (path for path in TEMPLATES if "console" not in path.parts):
        texts = Texts()
        texts.feed(TRANSLATED.sub("", path.read_text()))
        # The name of the program is none.
        if words := [text.strip() for text in texts.found if re.search(r"[^\W\d_]", text) and text.strip() != "issuer"]:
            bare[path.name] = words
        for script in path.parent.glob("page.js"):
            # Constants of the language and of the coupon service.
            known = ["use strict", "not started", "sold out", "not found"]
            literals = re.findall(r'"([^"\n]*\w\w \w\w[^"\n]*)"', script.read_text())
            bare |= {script.name: literals} if literals != known else {}
    for path in HTTP.rglob("*_mail.txt"):
        # The text part of a mail: values and translated texts, nothing else.
        bare |= {path.name: rest} if (rest := TRANSLATED.sub("", path.read_text()).split()) else {}
    assert bare == {}


@pytest.mark.parametrize(
    ("accept_language", "language"),
    [
        ("", "en"), ("de", "de"), ("de-AT,de;q=0.9,en;q=0.8", "de"), ("fr, de;q=0.5, en;q=0.4", "de"), ("DE_ch", "en"),
        ("en;q=0.4, de;q=0.5", "de"), ("de;q=0, en", "en"), ("de;q=x", "en"), ("ja,*", "en"), (",;q=1,\xff", "en"),
    ],
)  # fmt: skip
def test_a_visitor_gets_the_language_of_the_browser(accept_language: str, language: str) -> None:
    assert language_of(accept_language) == language


def test_numbers_and_dates_follow_the_language() -> None:
    instant = datetime(2026, 6, 1, 20, 5, tzinfo=timezone(timedelta(hours=9)))
    shown = {
        language: template("campaigns/page.html", language).render(
            lang=language, style="", script="", name="<b>", total=12345, starts_at=instant, data={}
        )
        for language in LANGUAGES
    }
    assert "12,345 codes from 1 June 2026 11:05 UTC on" in shown["en"]
    assert "12.345 Codes ab 1 Juni 2026 11:05 UTC" in shown["de"]
    assert all("<title>&lt;b&gt;</title>" in text for text in shown.values())


def test_headers_are_read_as_their_standard_says() -> None:
    assert [accepts_gzip(text) for text in ("gzip", "br, gzip;q=0.5", "*")] == [True] * 3
    assert [accepts_gzip(text) for text in ("", "br", "gzip;q=0", "gzip;q=0, *", "gzip;q=x")] == [False] * 5
    assert [prefers_json(text) for text in ("application/json", "application/problem+json;q=0.9")] == [True] * 2
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    assert [prefers_json(text) for text in ("", "*/*", browser, "application/json, text/html")] == [False] * 4


def figures(unit: str, language: str) -> Figures:
    terms = Terms()
    created = datetime(2026, 1, 1, tzinfo=UTC)
    program = Program(UUID(int=1), UUID(int=2), "Café", unit, "Asia/Seoul", ProgramState.ACTIVE, 1, terms, created)
    return Figures(program, language)


def entry(op: EntryOp, points: int) -> PointsEntry:
    return PointsEntry(1, op, points, 0, 0, 0, 0, 0, 1, datetime(2026, 1, 1, tzinfo=UTC))


def test_points_money_and_days_are_those_of_program_and_language() -> None:
    points, euros, yen = figures("points", "de"), figures("EUR", "de"), figures("JPY", "en")
    assert (points.points(1_250), yen.points(1_250)) == ("1.250", "¥1,250")
    assert euros.points(1_250) == "12,50\xa0€"
    ops = (EntryOp.EARN, EntryOp.SPEND, EntryOp.EARN_PENDING, EntryOp.HOLD)
    assert [points.change(entry(op, 5)) for op in ops] == ["+5", "−5", "+5", ""]
    # The end of the year in Seoul, which is exclusive: the day before is the last one.
    assert points.last_day(datetime(2026, 12, 31, 15, tzinfo=UTC)) == "31. Dezember 2026"
    assert points.last_day(NEVER) is None
    assert points.day(datetime(2026, 12, 31, 15, tzinfo=UTC)) == "1. Januar 2027"


def test_a_mail_is_in_the_language_of_the_member_and_has_a_link_where_there_is_one() -> None:
    mail = make_mail("login", "a@müller.example", "de", program="Tea & <b>", code="012345", link=None)
    assert mail is not None
    assert (mail.to, mail.subject) == ("a@xn--mller-kva.example", "012345 ist Ihr Code für Tea & <b>")
    assert "Tea & <b>" in mail.text
    assert "Tea &amp; &lt;b&gt;" in mail.html
    assert "Link" not in mail.text
    linked = make_mail("login", "a@b.example", "en", program="Tea", code="012345", link="https://x/l/1/link/t")
    assert linked is not None
    assert "https://x/l/1/link/t" in linked.text
    assert 'href="https://x/l/1/link/t"' in linked.html
    assert make_mail("login", "ä@b.example", "en", program="Tea", code="012345", link=None) is None
    assert [language_of_member(None, "en")] == ["en"]


def test_a_form_leads_back_to_this_server_only() -> None:
    assert [local_path(text) for text in ("/", "/l/1?x=2")] == ["/", "/l/1?x=2"]
    others = ("", "x", "//evil", "/\\evil", "/a\\b", "https://evil", "/\n", "/é")
    assert [text for text in others if local_path(text) is not None] == []
