"""Write an XLSX workbook from NDJSON. It runs as a process of its own: it blocks no other task and frees its memory.

Run as ``python -m issuer.reports.workbook FILE``, with FILE in a directory of its own. Standard input has first a
line {"name": …, "columns": […]}, then the report as NDJSON, whose last line states the number of rows. Without that
line the input is incomplete, and the directory is removed: the process that created it may have been killed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import orjson
import xlsxwriter
from xlsxwriter.worksheet import Worksheet

SHEET_ROWS: Final = 1_048_575
"""Rows of one sheet, below the row with the names of the columns."""
TOTAL: Final = "total"
"""The name of the last sheet, which has the number of rows."""
_NICENESS: Final = 10


class TruncatedError(Exception):
    """The input is incomplete: its last line is missing or does not match."""


def write_workbook(lines: Iterable[bytes], file: Path, *, sheet_rows: int = SHEET_ROWS) -> int:
    """Write the workbook; return the number of rows. Raises TruncatedError: the file is then invalid.

    Text stays text, whatever it begins with. Memory does not grow with the rows: each row is written to a temporary
    file beside `file` when the next one begins.
    """
    source = iter(lines)
    head = orjson.loads(next(source, b"null"))
    if head is None:
        raise TruncatedError("no input")
    options = {"constant_memory": True, "tmpdir": str(file.parent)}
    with xlsxwriter.Workbook(str(file), options) as book:
        count = _write_sheets(book, head["name"], head["columns"], source, sheet_rows)
        total = book.add_worksheet(TOTAL)
        _write_row(total, 0, ["rows", count])
    return count


def _write_sheets(book: Any, name: str, columns: list[str], source: Iterable[bytes], sheet_rows: int) -> int:
    """Write the rows to as many sheets as needed; return their number."""
    sheet: Worksheet = _add_sheet(book, name, columns)
    count = 0
    for line in source:
        row = orjson.loads(line)
        if row.keys() == {"rows"}:
            if row["rows"] != count:
                raise TruncatedError(f"{count} rows of {row['rows']}")
            return count
        number, at = divmod(count, sheet_rows)
        if at == 0 and number > 0:
            sheet = _add_sheet(book, f"{name} {number + 1}", columns)
        _write_row(sheet, at + 1, row.values())
        count += 1
    raise TruncatedError(f"the input ends after {count} rows")


def _add_sheet(book: Any, name: str, columns: list[str]) -> Worksheet:
    sheet = book.add_worksheet(name)
    sheet.freeze_panes(1, 0)
    _write_row(sheet, 0, columns)
    return sheet


def _write_row(sheet: Worksheet, number: int, values: Iterable[Any]) -> None:
    for column, value in enumerate(values):
        if value is None:
            continue
        if isinstance(value, bool):
            problem = sheet.write_boolean(number, column, value)
        elif isinstance(value, int):
            problem = sheet.write_number(number, column, value)
        else:
            # Not `write`: it turns text that looks like a formula into one.
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            problem = sheet.write_string(number, column, text)
        if problem:
            raise ValueError(f"row {number}, column {column}: does not fit into a cell")


def main(file: Path) -> int:
    """Write the workbook from standard input; return the exit code."""
    os.nice(_NICENESS)
    try:
        write_workbook(sys.stdin.buffer, file)
    except (TruncatedError, OSError, xlsxwriter.exceptions.XlsxWriterException) as error:
        shutil.rmtree(file.parent, ignore_errors=True)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BaseException:
        shutil.rmtree(file.parent, ignore_errors=True)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
