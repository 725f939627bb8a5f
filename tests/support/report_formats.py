"""The rows of a report as its formats give them back."""

from __future__ import annotations

import csv
import io
from contextlib import aclosing
from typing import Any, Final

import openpyxl
import orjson
from openpyxl.utils.escape import unescape

from issuer.reports.formats import CsvEncoder, Encoder, NdjsonEncoder, encoded
from issuer.reports.report import Report, Selection
from issuer.reports.rows import Rows, read_rows
from issuer.reports.spool import workbook
from issuer.storage.stores import Stores

LIMIT_S: Final = 60.0


def rows_of(stores: Stores, report: Report, selection: Selection | None = None) -> Rows:
    return read_rows(stores.postgres.acquire(), report, selection or {}, timeout_s=LIMIT_S)


async def written(rows: Rows, encoder: Encoder) -> str:
    async with aclosing(encoded(rows, encoder)) as pieces:
        return b"".join([piece async for piece in pieces]).decode()


async def as_json(stores: Stores, report: Report, selection: Selection | None = None) -> list[dict[str, Any]]:
    """The rows of the NDJSON, which must say at its end how many they are."""
    *rows, last = [
        orjson.loads(line)
        for line in (await written(rows_of(stores, report, selection), NdjsonEncoder(report))).splitlines()
    ]
    assert last == {"rows": len(rows)}
    assert all(tuple(row) == report.columns for row in rows)
    return rows


async def as_csv(stores: Stores, report: Report, selection: Selection | None = None, **values: bool) -> list[list[str]]:
    text = await written(rows_of(stores, report, selection), CsvEncoder(report, **values))
    head, *rows = csv.reader(io.StringIO(text))
    assert tuple(head) == report.columns
    return rows


def unescaped(value: Any) -> Any:
    """What Excel shows: the format has _xHHHH_ for characters that XML cannot have, which openpyxl leaves as it is."""
    return unescape(value) if isinstance(value, str) else value


async def as_workbook(rows: Rows, report: Report) -> list[dict[str, Any]]:
    """The rows of all sheets, which must be named and counted as they should."""
    async with workbook(report, rows) as (file, count):
        book = openpyxl.load_workbook(file, read_only=True)
        found = []
        *sheets, total = book.worksheets
        assert [sheet.title for sheet in sheets] == [
            report.name,
            *(f"{report.name} {n + 2}" for n in range(len(sheets) - 1)),
        ]
        for sheet in sheets:
            head, *lines = sheet.iter_rows(values_only=True)
            assert head == report.columns
            found += [dict(zip(report.columns, map(unescaped, line), strict=True)) for line in lines]
        assert [list(line) for line in total.iter_rows(values_only=True)] == [["rows", len(found)]]
        assert count == len(found)
        return found
