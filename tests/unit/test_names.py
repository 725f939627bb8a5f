"""Names without characters that are not seen, and texts for people that show them."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
import structlog
import typer

from issuer.cli.output import fail, print_json
from issuer.logs import configure_logs
from issuer.names import name_problem, text_problem, visible
from tests.support.plain_logs import plain_logs

HIDDEN = {
    "right-to-left override": "Summer\u202eretniW",
    "left-to-right embedding": "a\u202ab",
    "isolate": "a\u2066b\u2069",
    "right-to-left mark": "a\u200fb",
    "zero-width space": "a\u200bb",
    "word joiner": "a\u2060b",
    "soft hyphen": "a\xadb",
    "byte order mark": "\ufeffa",
    "joiner in ASCII": "pay\u200dpal",
    "joiner at the start": "\u200dक",
    "joiner at the end": "क\u200d",
    "two joiners": "क\u200d\u200cष",
    "joiner before a space": "क\u200d ष",
    "Hangul filler": "a\u3164b",
    "half-width filler": "\uffa0",
    "Braille blank": "a\u2800",
    "grapheme joiner": "a\u034fb",
    "private use": "a\ue000",
    "tag": "a\U000e0061",
    "selector at the start": "\ufe0fa",
    "selector behind a space": "a \ufe0f",
    "selector behind a selector": "❤\ufe0f\ufe0f",
    "interlinear": "a\ufff9b",
}
CONTROL = {"NUL": "a\x00b", "escape": "a\x1b[2Jb", "line feed": "a\nb", "C1": "a\x85b", "line separator": "a\u2028b"}
ALLOWED = [
    "Sommer 2026",
    "Café",
    "Cafe\u0301",
    "夏の\u3000セール",
    "여름",
    "حملة الصيف",
    "می\u200cخواهم",
    "ක්\u200dරියා",
    "क्\u200cष",
    "👩\u200d👩\u200d👧",
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "葛\U000e0100城",
    "🏴",
    "a\xa0b",
    "50 % – „so“",
    "x" * 255,
]


@pytest.mark.parametrize("name", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_name_has_no_unseen_characters(name: str) -> None:
    problem = name_problem(name)
    assert problem is not None
    assert problem.startswith("name must not contain invisible characters, such as U+")
    assert text_problem(name) is None
    shown = visible(name)
    assert shown != name
    assert name_problem(shown) is None


@pytest.mark.parametrize("name", CONTROL.values(), ids=CONTROL.keys())
def test_a_name_has_no_control_characters(name: str) -> None:
    assert name_problem(name) == text_problem(name) == "name must not contain control characters"
    assert name == "a\nb" or visible(name).isprintable()


@pytest.mark.parametrize("name", ALLOWED)
def test_names_of_all_scripts_are_allowed(name: str) -> None:
    assert name_problem(name) is None
    assert visible(name) == name


def test_every_unseen_character_is_refused_between_ascii_letters() -> None:
    # The two planes at the end are for private use: some of each suffice.
    for number in (*range(0xF0000), *range(0xF0000, sys.maxunicode + 1, 251), sys.maxunicode - 2):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
            assert name_problem(f"a{character}b") is not None, hex(number)


def test_json_for_people_escapes_what_is_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "a\u202eb\U000e0061", "other": "é\n"}
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert "\u202e" not in printed
    assert "\\u202e" in printed
    assert "é" in printed


def test_logs_and_errors_show_what_is_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure_logs("info", terminal=True)
        structlog.get_logger().info("created", batch="a\u202eb\x1b[2J", lines="one\ntwo")
    finally:
        plain_logs()
    with pytest.raises(typer.Exit):
        fail("batch a\u202eb\x1b[2J")
    text = capsys.readouterr().err
    assert "\u202e" not in text
    assert "\x1b[2J" not in text
    assert text.count("\\u202e") == 2
