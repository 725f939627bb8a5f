"""The header of a CSV file of codes: it names the columns, in any order and case."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass


class CsvError(ValueError):
    """The file as a whole cannot be loaded."""


class CsvHeaderError(CsvError):
    """The first line does not name the required columns."""


@dataclass(frozen=True, slots=True)
class CsvColumns:
    """The number of columns, and the positions of ``code`` and ``client_id`` (None: the file has no such column)."""

    width: int
    code: int
    client: int | None

    def fit(self, fields: Sequence[str]) -> bool:
        """Return whether a row of several lines is plausible: its line breaks are in ignored columns only."""
        positions = (self.code, self.code if self.client is None else self.client)
        used = [fields[at] for at in positions if at < len(fields)]
        return len(fields) == self.width and not any("\n" in field for field in used)


def parse_header(line: bytes, *, needs_client: bool) -> CsvColumns:
    """Return the columns that a header names. Raises CsvHeaderError, also for a missing client if one is needed."""
    try:
        cells = next(csv.reader([line.decode()], strict=True, skipinitialspace=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise header_error(line) from error
    names = ["_".join(cell.replace("-", " ").lower().split()) for cell in cells]
    for name in ("code", "client_id"):
        if names.count(name) > 1:
            raise CsvHeaderError(f"CSV has more than one column '{name}'")
    if "code" not in names or ("client_id" not in names and needs_client):
        raise header_error(line)
    client = names.index("client_id") if "client_id" in names else None
    return CsvColumns(len(names), names.index("code"), client)


def header_error(line: bytes = b"") -> CsvHeaderError:
    """Return the error for this header, with a hint if the line looks like another format that spreadsheets export."""
    hint = ""
    if b"\x00" in line or line.startswith((b"\xff\xfe", b"\xfe\xff")):
        hint = "; the file looks like UTF-16: save it as UTF-8"
    elif b"," not in line:
        for separator, name in ((b";", "semicolons"), (b"\t", "tabs")):
            if separator in line:
                hint = f"; the first line has {name}: separate columns by commas"
    return CsvHeaderError(f"CSV must contain 'code' and 'client_id' columns{hint}")
