"""Parse a CSV file of codes as it arrives: bytes in, rows for COPY out. Memory does not grow with the file.

An invalid row is rejected with its line and reason and does not affect other rows. The rules:

* The header names the columns, in any order and case; ``client_id`` and ``code`` are read, other columns are ignored.
* A code is text exactly as written, without surrounding spaces and tabs: ``007`` stays ``007``.
* Quotes follow RFC 4180. A quoted field of an ignored column may contain line breaks. A quote that is not closed within
  100 lines and 64 kB, or whose row is then invalid, rejects only its own line.
* A byte order mark, CRLF, blank lines, and empty columns beyond those of the header are accepted.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Final

from issuer.ids import Identity, InvalidIdError
from issuer.loading.bounded_lines import LINE_BYTES, OVERLONG, BoundedLines
from issuer.loading.csv_header import CsvColumns, header_error, parse_header
from issuer.loading.file_clients import FileClients, NoClientError, OtherClientError

MAX_ROW_LINES: Final = 100
MAX_CODE_CHARACTERS: Final = 255
MAX_REJECTIONS: Final = 1_000
"""Rejections that are reported with line and reason; further ones are only counted."""

# Codes that need no escaping for COPY: printable ASCII except quote, comma and backslash, without surrounding spaces.
_plain_code = re.compile(rb"[!#-+\--\[\]-~](?:[ !#-+\--\[\]-~]{0,253}[!#-+\--\[\]-~])?").fullmatch
_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_not_utf8 = re.compile(r"[\ud800-\udfff]").search


class Reason(StrEnum):
    """Why a row was rejected."""

    TOO_FEW_COLUMNS = "too few columns"
    TOO_MANY_COLUMNS = "more columns than the header"
    BAD_CLIENT_ID = "bad client id"
    NO_CLIENT = "no client"
    OTHER_CLIENT = "not the client whose codes are being loaded"
    EMPTY = "empty code"
    TOO_LONG = "code over 255 characters"
    CONTROL_CHARACTER = "control character in the code"
    NOT_UTF8 = "invalid UTF-8"
    BAD_QUOTES = "quotes do not match"
    LINE_TOO_LONG = "line over 65,536 bytes"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A rejected row: its line in the file, counting from 1, and the reason."""

    line: int
    reason: str


class _RowError(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class CodeCsv:
    """One file. `feed` it block by block, then `finish` it; both return rows in the text format of COPY.

    A row consists of its first line in the file, the index of its client in `clients`, its number among the accepted
    rows of that client (1, 2, …), and the code. Where `clients` have a default, the file needs no client column, and an
    empty field means that client.
    """

    def __init__(self, clients: FileClients) -> None:
        self.clients = clients
        self.accepted = 0
        self.rejected = 0
        self.rejections: list[Rejection] = []
        self._columns: CsvColumns | None = None
        self._lines = BoundedLines()
        self._line = 0
        self._unfinished: list[bytes] = []

    def check_header(self, head: bytes) -> None:
        """Read the header at the beginning of a file, before the file is fed. Raises CsvHeaderError."""
        for line in head.split(b"\n"):
            self._read_header(line.removesuffix(b"\r"))
            if self._columns is not None:
                return
        raise header_error()

    def feed(self, block: bytes) -> bytes:
        """Parse the next bytes. Raises CsvError."""
        return self._parse(self._lines.feed(block), final=False)

    def finish(self) -> bytes:
        """Parse what is left; call this once, at the end of the file. Raises CsvError."""
        rows = self._parse(self._lines.finish(), final=True)
        if self._columns is None:
            raise header_error()
        return rows

    def reject_rows(self, count: int, shown: Sequence[Rejection]) -> None:
        """Reject rows that were accepted: `count` of them; `shown` are the first of them, in the order of lines."""
        self.accepted -= count
        self.rejected += count
        self.rejections = list(islice(merge(self.rejections, shown, key=lambda row: row.line), MAX_REJECTIONS))

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

    def _parse_plain(self, lines: list[bytes], start: int, columns: CsvColumns, rows: list[bytes]) -> int:
        """Parse lines up to the first with a quote; return its index. Every row passes here, so the loop is tight."""
        width, code_at, client_at = columns.width, columns.code, columns.client or 0
        spelling = self.clients.recall
        only_client = self.clients.default if columns.client is None else None
        at, accepted = start, self.accepted
        for at in range(start, len(lines)):
            line = lines[at]
            if b'"' in line:
                break
            self._line += 1
            fields = line.split(b",")
            if len(fields) == width and (client := only_client or spelling(fields[client_at])):
                code = fields[code_at]
                if _plain_code(code):
                    accepted += 1
                    client.count += 1
                    rows.append(b"%d\t%d\t%d\t%b\n" % (self._line, client.index, client.count, code))
                    continue
            self.accepted = accepted
            self._parse_unusual(line, fields, columns, rows)
            accepted = self.accepted
        else:
            at = len(lines)
        self.accepted = accepted
        return at

    def _parse_unusual(self, line: bytes, fields: list[bytes], columns: CsvColumns, rows: list[bytes]) -> None:
        """Parse a line without quotes that the fast loop did not accept: append its row, or reject it."""
        if not line.strip():
            return
        try:
            if line is OVERLONG:
                raise _RowError(Reason.LINE_TOO_LONG)
            rows.append(self._row([field.decode("utf-8", "surrogateescape") for field in fields], columns))
        except _RowError as error:
            self._reject(error.reason)

    def _parse_quoted(self, lines: list[bytes], at: int, columns: CsvColumns, rows: list[bytes], *, final: bool) -> int:
        """Parse the row that begins at a line with a quote. Return how many lines it has; 0: more are needed."""
        row_lines: list[bytes] = []
        reader = csv.reader(_decode_row(lines, at, row_lines), strict=True, skipinitialspace=True)
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
            self._reject(Reason.BAD_QUOTES)
            return 1
        try:
            rows.append(self._row(fields, columns))
        except _RowError as error:
            self._reject(error.reason)
        self._line += len(row_lines) - 1
        return len(row_lines)

    def _row(self, fields: Sequence[str], columns: CsvColumns) -> bytes:
        """Return the numbered row. Raises _RowError."""
        if len(fields) <= max(columns.code, columns.client or 0):
            raise _RowError(Reason.TOO_FEW_COLUMNS)
        if any(field.strip() for field in fields[columns.width :]):
            raise _RowError(Reason.TOO_MANY_COLUMNS)
        spelled = "" if columns.client is None else fields[columns.client]
        identity = self._find_client(spelled)
        code = _check_code(fields[columns.code].strip(" \t"))
        client = self.clients.add(identity, spelled)
        self.accepted += 1
        client.count += 1
        escaped = code.replace("\\", "\\\\").encode()
        return b"%d\t%d\t%d\t%b\n" % (self._line, client.index, client.count, escaped)

    def _find_client(self, spelled: str) -> Identity:
        """Return the client of a row. Raises _RowError."""
        try:
            return self.clients.find(spelled)
        except OtherClientError as error:
            raise _RowError(Reason.OTHER_CLIENT) from error
        except NoClientError as error:
            raise _RowError(Reason.NO_CLIENT) from error
        except InvalidIdError as error:
            raise _RowError(Reason.BAD_CLIENT_ID) from error

    def _reject(self, reason: Reason) -> None:
        self.rejected += 1
        if len(self.rejections) < MAX_REJECTIONS:
            self.rejections.append(Rejection(self._line, reason.value))

    def _read_header(self, line: bytes) -> None:
        self._line += 1
        if self._line == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            return
        self._columns = parse_header(line, needs_client=not self.clients.has_default)


def _check_code(code: str) -> str:
    if not code.strip():
        raise _RowError(Reason.EMPTY if not _control(code) else Reason.CONTROL_CHARACTER)
    if _not_utf8(code):
        raise _RowError(Reason.NOT_UTF8)
    if len(code) > MAX_CODE_CHARACTERS:
        raise _RowError(Reason.TOO_LONG)
    if _control(code):
        raise _RowError(Reason.CONTROL_CHARACTER)
    return code


def _decode_row(lines: list[bytes], at: int, row_lines: list[bytes]) -> Iterator[str]:
    """Yield the lines from `at` on that may belong to one row, and append each to `row_lines`."""
    for line in islice(lines, at, None):
        if not _may_continue(row_lines) or line is OVERLONG:
            return
        row_lines.append(line)
        yield line.decode("utf-8", "surrogateescape") + "\n"


def _may_continue(row_lines: Sequence[bytes]) -> bool:
    return len(row_lines) < MAX_ROW_LINES and sum(map(len, row_lines)) <= LINE_BYTES
