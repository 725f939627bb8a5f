"""Encode rows as text: CSV for people and spreadsheets, NDJSON for programs. The last row can state their number."""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from issuer.instants import show_instant
from issuer.reports.report import Report

if TYPE_CHECKING:
    from issuer.reports.rows import Row, Rows

# A formula begins with one of these, among them the full-width and small forms that some programs accept.
_SIGNS: Final = "=+\\-@＝＋－＠﹦﹢﹣﹫"
# What programs skip before it: spaces, invisible characters and quotes. The apostrophe makes the guard reversible.
_SKIPPED: Final = (
    " \"'\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    "\ufe00-\ufe0f\ufeff"
)
# Most texts, such as ids and codes, without any place for a formula: ten times as fast as to look at each place.
_ORDINARY: Final = re.compile(r"\w[\w .:/=+@-]*", re.ASCII)
_FORMULA: Final = re.compile(f"(?:(?<![^;,\t\r\n])(?=[{_SKIPPED}]*[{_SIGNS}])|\\A(?='*[\t\r\n]))")
"""The places where a cell with a formula could begin: at the start of a text and behind each character that a program
may take for a separator of cells, whatever separates them here."""

# What Excel may turn into a number, a date or a time, in any language: digits with at most one word, such as `0012`,
# `1E5`, `MAR1` and `3 p`.
_OTHERS: Final = "-+.,:/'\u2019 \u20ac$\u00a3\u00a5%\\d"
_CONVERTED: Final = re.compile(rf"(?=\D*\d)[{_OTHERS}]*[^\W\d_]{{0,9}}[{_OTHERS}]*")

COUNT_LABEL: Final = "# rows"


class Format(StrEnum):
    """The formats of a report."""

    CSV = "csv"
    NDJSON = "ndjson"
    XLSX = "xlsx"


MEDIA_TYPES: Final = {
    Format.CSV: "text/csv",
    Format.NDJSON: "application/x-ndjson",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def guard_formula(text: str) -> str:
    """Return the text with an apostrophe wherever a spreadsheet would read a formula.

    Different texts stay different: one that has such an apostrophe already gets another.
    """
    return text if _ORDINARY.fullmatch(text) else _FORMULA.sub("'", text)


def excel_text(text: str) -> str | None:
    """Return the formula that keeps a text as it is in Excel; None: it needs none, or is a formula to be guarded."""
    if not _CONVERTED.fullmatch(text) or guard_formula(text) != text:
        return None
    return f'="{text}"'


def plain(value: Any) -> Any:
    """Return a value of Postgres for JSON: numbers, booleans and null unchanged, everything else as text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, datetime):
        return show_instant(value)
    return value.hex() if isinstance(value, bytes) else str(value)


class Encoder(ABC):
    """An encoder for the rows of one report: `begin`, then `add` for each chunk, then `end`.

    `rows` is their number so far. The output is complete only with that of `end`.
    """

    def __init__(self, report: Report) -> None:
        self.columns = report.columns
        self.rows = 0
        self._shown: list[Callable[[Any], Any]] = [report.shown.get(column, plain) for column in report.columns]

    def shown(self, row: Row) -> list[Any]:
        return [None if value is None else show(value) for show, value in zip(self._shown, row, strict=True)]

    def add(self, rows: list[Row]) -> bytes:
        self.rows += len(rows)
        return self._encoded([self.shown(row) for row in rows])

    @abstractmethod
    def begin(self) -> bytes: ...

    @abstractmethod
    def end(self) -> bytes: ...

    @abstractmethod
    def _encoded(self, rows: list[list[Any]]) -> bytes: ...


class CsvEncoder(Encoder):
    """RFC 4180 in UTF-8, but with LF line ends. With `count` the last row states the number of rows.

    With `guard` a text that a spreadsheet would read as a formula gets an apostrophe before it. With `excel` a double
    click opens the file in Excel as it is: it has a byte order mark, semicolons and CRLF, and a text that Excel would
    turn into a number or a date is a formula that is nothing but this text.
    """

    def __init__(self, report: Report, *, guard: bool = True, count: bool = False, excel: bool = False) -> None:
        super().__init__(report)
        self._guard = guard
        self._count = count
        self._excel = excel

    def begin(self) -> bytes:
        return (BOM_UTF8 if self._excel else b"") + self._lines([self.columns])

    def end(self) -> bytes:
        return self._lines([[COUNT_LABEL, self.rows, *[None] * (len(self.columns) - 2)]]) if self._count else b""

    def _encoded(self, rows: list[list[Any]]) -> bytes:
        return self._lines([self._cell(value) for value in row] for row in rows)

    def _lines(self, rows: Iterable[Iterable[object]]) -> bytes:
        lines = io.StringIO()
        separator, end = (";", "\r\n") if self._excel else (",", "\n")
        csv.writer(lines, delimiter=separator, lineterminator=end).writerows(rows)
        return lines.getvalue().encode()

    def _cell(self, value: Any) -> object:
        if isinstance(value, str):
            if self._excel and (converted := excel_text(value)) is not None:
                return converted
            return guard_formula(value) if self._guard else value
        if isinstance(value, bool):
            return "true" if value else "false"
        return orjson.dumps(value).decode() if isinstance(value, (dict, list)) else value


class NdjsonEncoder(Encoder):
    """One object per line; the last line is {"rows": N}, with the number of rows."""

    def begin(self) -> bytes:
        return b""

    def end(self) -> bytes:
        return orjson.dumps({"rows": self.rows}) + b"\n"

    def _encoded(self, rows: list[list[Any]]) -> bytes:
        columns = self.columns
        return b"".join(
            orjson.dumps(dict(zip(columns, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for row in rows
        )


async def encoded(rows: Rows, encoder: Encoder) -> AsyncGenerator[bytes, None]:
    """Yield the whole text, one piece per chunk. The next rows are read only after a piece was consumed."""
    async with aclosing(rows):
        beginning = encoder.begin()
        async for chunk in rows:
            # Sent with the first rows, so that an error before them occurs before the response has started.
            yield beginning + encoder.add(chunk)
            beginning = b""
        yield beginning + encoder.end()
