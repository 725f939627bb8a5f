"""No cell of a CSV begins with a formula, however a spreadsheet splits it; and the guard can be undone."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.reports.formats import excel_text, guard_formula

GUARDED = {
    "=1+1": "'=1+1",
    "+1": "'+1",
    "-1": "'-1",
    "@SUM(A1)": "'@SUM(A1)",
    "＝1": "'＝1",
    "﹢1": "'﹢1",
    "\tx": "'\tx",
    "\rx": "'\rx",
    "\nx": "'\nx",
    " =1+1": "' =1+1",
    "\u00a0=1": "'\u00a0=1",
    "\u200b=1": "'\u200b=1",
    "\u202e\ufeff @x": "'\u202e\ufeff @x",
    "\u3000-1": "'\u3000-1",
    "\x00=1": "'\x00=1",
    'x;=cmd|"/c calc"!A0': 'x;\'=cmd|"/c calc"!A0',
    "x,=1": "x,'=1",
    "x; =1;\u200b+2": "x;' =1;'\u200b+2",
    "x\t=1": "x\t'=1",
    "x\n=1": "x\n'=1",
    "x\r\n@y": "x\r\n'@y",
    '"=1"': '\'"=1"',
    'x;"=1"': 'x;\'"=1"',
    "'=1": "''=1",
    "'\tx": "''\tx",
}
UNCHANGED = [
    "",
    "x",
    "x=1",
    "x =1",
    "a+b",
    "a@b.example",
    "SUMMER-0001",
    "1-2",
    "x; y",
    "1,5",
    "'x",
    "a;b;c",
    "5.00",
    "a'=b",
]


@pytest.mark.parametrize(("text", "guarded"), GUARDED.items(), ids=ascii)
def test_a_formula_gets_an_apostrophe(text: str, guarded: str) -> None:
    assert guard_formula(text) == guarded


@pytest.mark.parametrize("text", UNCHANGED)
def test_other_texts_stay_what_they_are(text: str) -> None:
    assert guard_formula(text) == text


ODD = st.text(st.sampled_from("=+-@＝;,\t\r\n \u00a0\u200b\"'ax1"), max_size=12)


@given(ODD, ODD)
def test_different_texts_stay_different(one: str, other: str) -> None:
    assert (guard_formula(one) == guard_formula(other)) == (one == other)


@given(st.lists(ODD, min_size=1, max_size=4), st.sampled_from(",;\t"), st.booleans())
def test_no_program_finds_a_formula(cells: list[str], delimiter: str, quoted: bool) -> None:
    """However a program splits the line: by commas or other separators, with quotes or without."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([guard_formula(cell) for cell in cells])
    text = io.StringIO(line.getvalue(), newline="")
    if quoted:
        rows = csv.reader(text, delimiter=delimiter)
    else:
        rows = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    for row in rows:
        for cell in row:
            shown = re.sub('^[\\s\u200b"]+', "", cell)
            assert not shown.startswith(("=", "+", "-", "@", "＝")), (cell, line.getvalue())


@pytest.mark.parametrize(
    "text", ["0012", "1E5", "12-3", "1/2", "MAR1", "1. März", "3 p", "10:30", "SUMMER-0001", "5 €"]
)
def test_what_excel_would_convert_is_written_as_a_text(text: str) -> None:
    assert excel_text(text) == f'="{text}"'


@pytest.mark.parametrize(
    "text",
    ["", "A1B2", "Summer Sale", "2026-11-27T22:03:42Z", "d3300000-0000-4000-8000-0000000a0001", "-1", "=1", "+49 1"],
)
def test_other_texts_are_written_as_they_are(text: str) -> None:
    """Formulas are guarded, not wrapped: what is behind their sign is not looked at."""
    assert excel_text(text) is None
