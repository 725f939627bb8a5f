"""Parse a text file of codes as it arrives: bytes in, rows for COPY out. Memory does not grow with the file.

What programs write as CSV is understood as it is: UTF-8 and UTF-16, with and without a byte order mark; lines that end
with LF, CRLF or CR; columns separated by commas, semicolons or tabs, or by what a first line `sep=…` says. Quotes
follow RFC 4180. A quoted field of an ignored column may contain line breaks. A quote that is not closed within 100
lines and 64 kB, or whose row is then invalid, rejects only its own line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from issuer.loading.bounded_lines import LINE_BYTES, OVERLONG, BoundedLines
from issuer.loading.code_rows import CodeRows, Reason, RowError
from issuer.loading.columns import Columns, empty_file, no_header, split_header
from issuer.loading.text_encoding import Utf8Blocks

MAX_ROW_LINES: Final = 100

# Codes that need no escaping for COPY: printable ASCII except quote, comma and backslash, without surrounding spaces.
_plain_code = re.compile(rb"[!#-+\--\[\]-~](?:[ !#-+\--\[\]-~]{0,253}[!#-+\--\[\]-~])?").fullmatch
_quoted_field = re.compile(rb'="([^"]*)"|"([^"]*)"|"=""([^"]*)"""').fullmatch
_separator_line = re.compile(rb'"?sep=([^\w"\r\n])"?[ ,;\t]*', re.IGNORECASE).fullmatch


class CodeCsv:
    """One file. `feed` it block by block, then `finish` it; both return rows for COPY, as `rows` numbers them."""

    def __init__(self, rows: CodeRows) -> None:
        self.rows = rows
        self._columns: Columns | None = None
        self._separator: bytes | None = None
        self._blocks = Utf8Blocks()
        self._lines = BoundedLines()
        self._line = 0
        self._unfinished: list[bytes] = []

    def feed(self, block: bytes) -> bytes:
        """Parse the next bytes. Raises CodeFileError."""
        return self._parse(self._lines.feed(self._blocks.feed(block)), final=False)

    def finish(self) -> bytes:
        """Parse what is left; call this once, at the end of the file. Raises CodeFileError."""
        rows = self._parse(self._lines.feed(self._blocks.finish()), final=False)
        rows += self._parse(self._lines.finish(), final=True)
        if self._columns is None:
            raise empty_file()
        return rows

    def _parse(self, lines: list[bytes], *, final: bool) -> bytes:
        if self._unfinished:
            lines, self._unfinished = self._unfinished + lines, []
        at = 0
        while self._columns is None and at < len(lines):
            self._read_header(lines[at])
            at += 1
        if self._columns is None:
            return b""
        rows: list[bytes] = []
        while at < len(lines):
            at = self._parse_plain(lines, at, self._columns, rows)
            if at < len(lines):
                used = self._parse_quoted(lines, at, self._columns, rows, final=final)
                if used == 0:
                    self._unfinished = lines[at:]
                    break
                at += used
        return b"".join(rows)

    def _parse_plain(self, lines: list[bytes], start: int, columns: Columns, rows: list[bytes]) -> int:
        """Parse lines up to the first with unusual quotes; return its index. All rows pass here: the loop is tight."""
        width, code_at, client_at, separator = columns.width, columns.code, columns.client or 0, self._separator
        checked, spelling = self.rows, self.rows.clients.recall
        plain = not columns.attributes
        only_client = checked.clients.default if columns.client is None else None
        at, accepted = start, checked.accepted
        for at in range(start, len(lines)):
            line = lines[at]
            fields = line.split(separator) if b'"' not in line else _unquoted(line.split(separator))
            if fields is None:
                break
            self._line += 1
            if len(fields) == width and plain and (client := only_client or spelling(fields[client_at])):
                code = fields[code_at]
                if _plain_code(code):
                    accepted += 1
                    client.count += 1
                    rows.append(b"%d\t%d\t%d\t%b\n" % (self._line, client.index, client.count, code))
                    continue
            checked.accepted = accepted
            self._parse_unusual(line, fields, columns, rows)
            accepted = checked.accepted
        else:
            at = len(lines)
        checked.accepted = accepted
        return at

    def _parse_unusual(self, line: bytes, fields: list[bytes], columns: Columns, rows: list[bytes]) -> None:
        """Parse a line that the fast loop did not accept: append its row, or reject it."""
        if line is OVERLONG:
            self.rows.reject(self._line, RowError(Reason.LINE_TOO_LONG))
            return
        rows.append(self.rows.add(self._line, [field.decode("utf-8", "surrogateescape") for field in fields], columns))

    def _parse_quoted(self, lines: list[bytes], at: int, columns: Columns, rows: list[bytes], *, final: bool) -> int:
        """Parse the row that begins at a line with a quote. Return how many lines it has; 0: more are needed."""
        assert self._separator is not None, "the header was read"
        row_lines: list[bytes] = []
        reader = csv.reader(
            _decode_row(lines, at, row_lines),
            strict=True, skipinitialspace=True, delimiter=self._separator.decode(),
        )  # fmt: skip
        self._line += 1
        try:
            fields = next(reader)
        except (csv.Error, StopIteration):
            if not final and at + len(row_lines) == len(lines) and _may_continue(row_lines):
                self._line -= 1
                return 0
            fields = []
        if not fields or (len(row_lines) > 1 and not columns.fit(fields)):
            # Reject only this line: the next ones may be valid rows that the open quote has swallowed.
            self.rows.reject(self._line, RowError(Reason.BAD_QUOTES))
            return 1
        rows.append(self.rows.add(self._line, fields, columns))
        self._line += len(row_lines) - 1
        return len(row_lines)

    def _read_header(self, line: bytes) -> None:
        self._line += 1
        if line is OVERLONG:
            raise no_header(f"the first line is over {LINE_BYTES:,} bytes")
        if not line.strip():
            return
        if self._separator is None and (named := _separator_line(line)):
            self._separator = named[1]
            return
        self._columns, self._separator = split_header(line, self._separator, self.rows.find_columns)


def _unquoted(fields: list[bytes]) -> list[bytes] | None:
    """Return the fields without quotes around them, as in ``"A1"`` and Excel's ``="0012"``; None: there are others."""
    for at, field in enumerate(fields):
        if b'"' in field:
            found = _quoted_field(field)
            if found is None:
                return None
            fields[at] = found[found.lastindex or 0]
    return fields


def _decode_row(lines: list[bytes], at: int, row_lines: list[bytes]) -> Iterator[str]:
    """Yield the lines from `at` on that may belong to one row, and append each to `row_lines`."""
    for line in islice(lines, at, None):
        if not _may_continue(row_lines) or line is OVERLONG:
            return
        row_lines.append(line)
        yield line.decode("utf-8", "surrogateescape") + "\n"


def _may_continue(row_lines: Sequence[bytes]) -> bool:
    return len(row_lines) < MAX_ROW_LINES and sum(map(len, row_lines)) <= LINE_BYTES
