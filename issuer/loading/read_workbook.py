"""Read the rows of an Excel workbook. It runs as a process of its own, with bounds: a workbook may be built to harm.

Run as ``python -m issuer.loading.read_workbook [SHEET]`` with the workbook, a regular file, as standard input. Standard
output gets a line of JSON for each row that is not blank: its number and its cells, each a text, or a list with the
reason why its value is none. The last line is {"rows": N}: without it the output is incomplete. A workbook that cannot
be read is {"error": …}, or {"kind": …} if the file is something else.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import warnings
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from typing import Any, BinaryIO, Final
from zipfile import BadZipFile, ZipFile

import orjson
from openpyxl import load_workbook
from openpyxl.worksheet._read_only import ReadOnlyWorksheet

from issuer.loading.file_kind import kind_of_archive

MAX_EXPANDED_BYTES: Final = 1 << 30
"""Of all parts of the workbook. zipfile reads no more of a part than its size in the directory says."""
MAX_OUTPUT_BYTES: Final = 1 << 30
"""Of all rows. Every cell may show the same long text, of which the workbook has one."""
MAX_PARTS: Final = 2_000
MAX_SHEETS: Final = 1_000
MAX_ROWS: Final = 1_048_576
"""Of a sheet, as in Excel: a row with a higher number ends the reading."""
MAX_COLUMNS: Final = 256
MAX_CELL_CHARACTERS: Final = 2_048
"""The rest of a longer text is cut off: no code and no attribute may be that long."""
MEMORY_BYTES: Final = 1 << 30
"""Address space of the process, which holds the texts of all cells. Beyond it, it ends with an error."""
EXACT_BELOW: Final = 10**15
"""Excel keeps 15 digits of a number: it has changed the last ones of a longer one already."""

_NICENESS: Final = 10
_SAVE_AS: Final = "save it as CSV UTF-8"
_PADDED = re.compile(r"0{2,}").fullmatch
# Formats that show the digits of a whole number, and nothing that belongs to the code.
_PLAIN: Final = frozenset({"General", "@", "0", "#", "0.00", "#,##0", "#,##0.00", "GENERAL", "0_ "})
_constant = re.compile(r'="(?:[^"]|"")*"', re.DOTALL).fullmatch


class WorkbookReadError(Exception):
    """The workbook cannot be read; the message says why."""


class OtherKindError(Exception):
    """The file is no Excel workbook; the message says what it is."""


def rows_of(file: BinaryIO, sheet: str | None = None) -> Iterator[tuple[int, list[str | list[str]]]]:
    """Yield number and cells of the rows that are not blank, of the first sheet or the one with this name.

    Raises WorkbookReadError and OtherKindError.
    """
    _check_archive(file)
    book = load_workbook(file, read_only=True, keep_links=False)
    sheets = [found for found in book.worksheets if isinstance(found, ReadOnlyWorksheet)]
    if len(sheets) > MAX_SHEETS:
        raise WorkbookReadError(f"it has more than {MAX_SHEETS:,} sheets")
    chosen = next((found for found in sheets if sheet is None or found.title == sheet), None)
    if chosen is None:
        names = ", ".join(repr(found.title) for found in sheets[:20])
        raise WorkbookReadError(f"it has no sheet {sheet!r}, only {names}" if sheets else "it has no sheet with rows")
    # Some programs write a wrong size, and the reader would believe it.
    chosen.reset_dimensions()
    for number, row in enumerate(chosen.iter_rows(max_row=MAX_ROWS), start=1):
        cells = [cell_text(cell) for cell in row[:MAX_COLUMNS]]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield number, cells


def _check_archive(file: BinaryIO) -> None:
    with ZipFile(file) as archive:
        parts = archive.infolist()
        if len(parts) > MAX_PARTS or sum(part.file_size for part in parts) > MAX_EXPANDED_BYTES:
            raise WorkbookReadError(f"it expands to more than {MAX_EXPANDED_BYTES >> 20:,} MB; {_SAVE_AS}")
        kind = kind_of_archive(frozenset(part.filename for part in parts))
    if kind is not None:
        raise OtherKindError(kind)


def cell_text(cell: Any) -> str | list[str]:
    """Return the text of a cell as its reader sees it, or a list with the reason why it has none."""
    value = cell.value
    if value is None:
        return ""
    match cell.data_type:
        case "s":
            return str(value)[:MAX_CELL_CHARACTERS]
        case "f":
            # ="0012" is how a text came through a CSV; any other formula has a value that only a spreadsheet knows.
            return value if isinstance(value, str) and _constant(value) else ["a formula"]
        case "n" if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _number_text(value, cell.number_format)
        case "b":
            return ["true or false"]
        case _:
            return ["a date or time" if isinstance(value, (date, datetime, time)) else f"an error, {value}"[:40]]


def _number_text(value: float, shown_as: str) -> str | list[str]:
    if abs(value) >= EXACT_BELOW:
        return ["a number of more than 15 digits, which Excel has rounded: make the column text and enter it again"]
    if value != int(value):
        return ["a number with decimals"]
    digits = str(int(value))
    if _PADDED(shown_as) and value >= 0:
        return digits.zfill(len(shown_as))
    return digits if shown_as in _PLAIN else [f"a number shown as {shown_as[:40]!r}"]


def encoded(rows: Iterable[tuple[int, list[str | list[str]]]]) -> Iterator[bytes]:
    """Yield the lines of the output, whatever happens while the rows are read."""
    count = size = 0
    try:
        for row in rows:
            line = orjson.dumps(row) + b"\n"
            count, size = count + 1, size + len(line)
            if size > MAX_OUTPUT_BYTES:
                raise WorkbookReadError(f"its cells have more than {MAX_OUTPUT_BYTES >> 20:,} MB; {_SAVE_AS}")
            yield line
        yield orjson.dumps({"rows": count})
    except OtherKindError as error:
        yield orjson.dumps({"kind": str(error)})
    except WorkbookReadError as error:
        yield orjson.dumps({"error": str(error)})
    except MemoryError:
        yield orjson.dumps({"error": f"it needs too much memory; {_SAVE_AS}"})
    except BadZipFile:
        yield orjson.dumps({"error": f"it is damaged or incomplete; {_SAVE_AS}"})
    except Exception as error:  # openpyxl raises whatever its data make it raise
        yield orjson.dumps({"error": f"it is damaged or not an .xlsx ({type(error).__name__}); {_SAVE_AS}"})


def main(sheet: str | None) -> None:
    """Write the rows of standard input to standard output."""
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    for line in encoded(rows_of(sys.stdin.buffer, sheet)):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
