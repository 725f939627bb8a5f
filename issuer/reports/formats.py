"""Rows as text: CSV for people and spreadsheets, NDJSON for programs. Each can say at its end how many rows it has."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
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

# What a spreadsheet takes for the beginning of a formula; some take the wide forms of East Asian fonts for the same.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

COUNT_LABEL: Final = "# rows"


class Format(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"
    XLSX = "xlsx"


MEDIA_TYPES: Final = {
    Format.CSV: "text/csv",
    Format.NDJSON: "application/x-ndjson",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def guarded(text: str) -> str:
    """Text that no spreadsheet takes for a formula: with an apostrophe in front where one would."""
    return "'" + text if text.startswith(_FORMULA) else text


def plain(value: Any) -> Any:
    """A value of Postgres as JSON has it: numbers, flags and null as they are, everything else as text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, datetime):
        return show_instant(value)
    return value.hex() if isinstance(value, bytes) else str(value)


class Encoder(ABC):
    """Turns the rows of one report into bytes: `begin`, then `add` as often as there are chunks, then `end`.

    `rows` counts them. What was written is whole only when `end` was, too.
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
    """RFC 4180 in UTF-8, but with plain line feeds. With `count` a last row tells the number of rows.

    With `guard` text that a spreadsheet would take for a formula gets an apostrophe in front.
    """

    def __init__(self, report: Report, *, guard: bool = True, count: bool = False) -> None:
        super().__init__(report)
        self._guard = guard
        self._count = count

    def begin(self) -> bytes:
        return _lines([self.columns])

    def end(self) -> bytes:
        return _lines([[COUNT_LABEL, self.rows, *[None] * (len(self.columns) - 2)]]) if self._count else b""

    def _encoded(self, rows: list[list[Any]]) -> bytes:
        return _lines([self._cell(value) for value in row] for row in rows)

    def _cell(self, value: Any) -> object:
        if isinstance(value, str):
            return guarded(value) if self._guard else value
        if isinstance(value, bool):
            return "true" if value else "false"
        return orjson.dumps(value).decode() if isinstance(value, (dict, list)) else value


class NdjsonEncoder(Encoder):
    """An object a line; the last line is {"rows": their number} and nothing else."""

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
    """The whole text in pieces, a piece a chunk. Takes the next rows only when the last piece was taken."""
    async with aclosing(rows):
        beginning = encoder.begin()
        async for chunk in rows:
            # With the first rows, so that what goes wrong before them goes wrong before anything was sent.
            yield beginning + encoder.add(chunk)
            beginning = b""
        yield beginning + encoder.end()


def _lines(rows: Iterable[Iterable[object]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()
