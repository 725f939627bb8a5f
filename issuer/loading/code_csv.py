"""A CSV file of codes, read as it comes: bytes in, rows ready for COPY out. Memory does not grow with the file.

A row that cannot be taken is counted and explained and never costs another row. What is read how:

* The header names the columns, in any order and case; ``client_id`` and ``code`` count, the others are ignored.
* A code is text exactly as written, without the spaces and tabs around it: ``007`` stays ``007``.
* Quotes as in RFC 4180. A quoted field may hold line breaks (in a column that is ignored). A quote that is not
  closed within 100 lines and 64 kB, or closes over a row that is then no good, spoils its own line only.
* A byte order mark, CRLF and blank lines are let pass, and empty columns beyond those of the header.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final
from uuid import UUID

from issuer.loading.bounded_lines import LINE_BYTES, OVERLONG, BoundedLines

ROW_LINES: Final = 100
CODE_CHARACTERS: Final = 255
MAX_CLIENTS: Final = 10_000
"""Clients in one file; each is a pool."""
MAX_REJECTIONS: Final = 1_000
"""Rejections that are kept with line and reason; the others are only counted."""

_MAX_SPELLINGS: Final = 2 * MAX_CLIENTS
# Codes that go to COPY as they are: printable ASCII but for quote, comma and backslash, no spaces around.
_plain_code = re.compile(rb"[!#-+\--\[\]-~](?:[ !#-+\--\[\]-~]{0,253}[!#-+\--\[\]-~])?").fullmatch
_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_not_utf8 = re.compile(r"[\ud800-\udfff]").search
_uuid = re.compile(r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}").fullmatch


class CsvError(ValueError):
    """The file as a whole cannot be taken."""


class CsvHeaderError(CsvError):
    """The first line does not name the columns that are needed."""


class TooManyClientsError(CsvError):
    """More clients than one file may have."""


class Reason(StrEnum):
    """Why a row was rejected."""

    TOO_FEW_COLUMNS = "too few columns"
    TOO_MANY_COLUMNS = "more columns than the header"
    BAD_CLIENT_ID = "bad client id"
    OTHER_CLIENT = "not the client whose codes are being loaded"
    EMPTY = "empty code"
    TOO_LONG = "code over 255 characters"
    CONTROL_CHARACTER = "control character in the code"
    NOT_UTF8 = "invalid UTF-8"
    BAD_QUOTES = "quotes do not match"
    LINE_TOO_LONG = "line over 65,536 bytes"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that was left out: its line in the file, counting from 1, and why."""

    line: int
    reason: str


class _RowError(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Client:
    index: int
    count: int = 0


@dataclass(frozen=True, slots=True)
class _Columns:
    width: int
    code: int
    client: int | None

    def fit(self, fields: Sequence[str]) -> bool:
        """Whether a row of several lines is what it seems: the line breaks are in columns that are ignored."""
        count = [
            fields[at] for at in (self.code, self.code if self.client is None else self.client) if at < len(fields)
        ]
        return len(fields) == self.width and not any("\n" in field for field in count)


class CodeCsv:
    """One file. `feed` it block by block, then `finish` it; both return rows in the text format of COPY:

    row (1, 2, … over the file), index of the client in `clients`, number of the row among that client's (1, 2, …),
    code. Rows that are rejected get no number. `client_id` is the only client there may be; the file then needs no
    column for it, and an empty one means that client.
    """

    def __init__(self, client_id: UUID | None = None) -> None:
        self.clients: list[UUID] = []
        self.accepted = 0
        self.rejected = 0
        self.rejections: list[Rejection] = []
        self._only = client_id
        self._columns: _Columns | None = None
        self._lines = BoundedLines()
        self._line = 0
        self._held: list[bytes] = []
        self._known: dict[UUID, _Client] = {}
        self._spellings: dict[bytes, _Client] = {}

    def check_header(self, head: bytes) -> None:
        """Read the header at the beginning of a file, before the file is fed. Raises CsvHeaderError."""
        for line in head.split(b"\n"):
            self._read_header(line.removesuffix(b"\r"))
            if self._columns is not None:
                return
        raise _header_error()

    def feed(self, block: bytes) -> bytes:
        """Takes the next bytes. Raises CsvError."""
        return self._take(self._lines.feed(block), final=False)

    def finish(self) -> bytes:
        """To be called once, at the end of the file. Raises CsvError."""
        rows = self._take(self._lines.finish(), final=True)
        if self._columns is None:
            raise _header_error()
        return rows

    def _take(self, lines: list[bytes], *, final: bool) -> bytes:
        if self._held:
            lines, self._held = self._held + lines, []
        at = 0
        while self._columns is None and at < len(lines):
            self._read_header(lines[at])
            at += 1
        if self._columns is None:
            return b""
        rows: list[bytes] = []
        while at < len(lines):
            at = self._take_plain(lines, at, self._columns, rows)
            if at < len(lines):
                used = self._take_quoted(lines, at, self._columns, rows, final=final)
                if used == 0:
                    self._held = lines[at:]
                    break
                at += used
        return b"".join(rows)

    def _take_plain(self, lines: list[bytes], start: int, columns: _Columns, rows: list[bytes]) -> int:
        """Takes lines until one with a quote; returns its index. This loop sees every row: it is kept tight."""
        width, code_at, client_at = columns.width, columns.code, columns.client or 0
        spelling = self._spellings.get
        alone = self._only_client() if columns.client is None else None
        at, accepted = start, self.accepted
        for at in range(start, len(lines)):
            line = lines[at]
            if b'"' in line:
                break
            self._line += 1
            fields = line.split(b",")
            if len(fields) == width and (client := alone or spelling(fields[client_at])):
                code = fields[code_at]
                if _plain_code(code):
                    accepted += 1
                    client.count += 1
                    rows.append(b"%d\t%d\t%d\t%b\n" % (accepted, client.index, client.count, code))
                    continue
            self.accepted = accepted
            self._take_careful(line, fields, columns, rows)
            accepted = self.accepted
        else:
            at = len(lines)
        self.accepted = accepted
        return at

    def _take_careful(self, line: bytes, fields: list[bytes], columns: _Columns, rows: list[bytes]) -> None:
        if not line.strip():
            return
        try:
            if line is OVERLONG:
                raise _RowError(Reason.LINE_TOO_LONG)
            rows.append(self._row([field.decode("utf-8", "surrogateescape") for field in fields], columns))
        except _RowError as error:
            self._reject(error.reason)

    def _take_quoted(self, lines: list[bytes], at: int, columns: _Columns, rows: list[bytes], *, final: bool) -> int:
        """Takes the row that begins at a line with a quote; returns the number of its lines, 0: not all are there."""
        taken: list[bytes] = []
        reader = csv.reader(_texts(lines, at, taken), strict=True, skipinitialspace=True)
        self._line += 1
        try:
            fields = next(reader)
        except (csv.Error, StopIteration):
            if not final and at + len(taken) == len(lines) and _may_go_on(taken):
                self._line -= 1
                return 0
            fields = []
        if not fields or (len(taken) > 1 and not columns.fit(fields)):
            # Only this line: those after it may be good rows that an open quote has swallowed.
            self._reject(Reason.BAD_QUOTES)
            return 1
        try:
            rows.append(self._row(fields, columns))
        except _RowError as error:
            self._reject(error.reason)
        self._line += len(taken) - 1
        return len(taken)

    def _row(self, fields: Sequence[str], columns: _Columns) -> bytes:
        if len(fields) <= max(columns.code, columns.client or 0):
            raise _RowError(Reason.TOO_FEW_COLUMNS)
        if any(field.strip() for field in fields[columns.width :]):
            raise _RowError(Reason.TOO_MANY_COLUMNS)
        spelled = "" if columns.client is None else fields[columns.client]
        client_id = self._checked_client(spelled.strip(" \t"), columns)
        code = _checked_code(fields[columns.code].strip(" \t"))
        client = self._client(client_id, spelled)
        self.accepted += 1
        client.count += 1
        escaped = code.replace("\\", "\\\\").encode()
        return b"%d\t%d\t%d\t%b\n" % (self.accepted, client.index, client.count, escaped)

    def _checked_client(self, text: str, columns: _Columns) -> UUID:
        if self._only is not None and (columns.client is None or not text):
            return self._only
        if not _uuid(text):
            raise _RowError(Reason.BAD_CLIENT_ID)
        client_id = UUID(text)
        if self._only not in (None, client_id):
            raise _RowError(Reason.OTHER_CLIENT)
        return client_id

    def _client(self, client_id: UUID, spelled: str) -> _Client:
        client = self._known.get(client_id)
        if client is None:
            if len(self.clients) == MAX_CLIENTS:
                raise TooManyClientsError(f"more than {MAX_CLIENTS:,} clients in one file")
            client = self._known[client_id] = _Client(len(self.clients))
            self.clients.append(client_id)
        if len(self._spellings) < _MAX_SPELLINGS:
            self._spellings[spelled.encode("utf-8", "surrogateescape")] = client
        return client

    def _only_client(self) -> _Client | None:
        return None if self._only is None else self._known.get(self._only)

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
        try:
            cells = next(csv.reader([line.decode()], strict=True, skipinitialspace=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise _header_error(line) from error
        names = ["_".join(cell.replace("-", " ").lower().split()) for cell in cells]
        for name in ("code", "client_id"):
            if names.count(name) > 1:
                raise CsvHeaderError(f"CSV has more than one column '{name}'")
        if "code" not in names or ("client_id" not in names and self._only is None):
            raise _header_error(line)
        client = names.index("client_id") if "client_id" in names else None
        self._columns = _Columns(len(names), names.index("code"), client)


def _header_error(line: bytes = b"") -> CsvHeaderError:
    """With a hint where the line looks like what spreadsheets write instead of CSV."""
    hint = ""
    if b"\x00" in line or line.startswith((b"\xff\xfe", b"\xfe\xff")):
        hint = "; the file looks like UTF-16: save it as UTF-8"
    elif b"," not in line:
        for separator, name in ((b";", "semicolons"), (b"\t", "tabs")):
            if separator in line:
                hint = f"; the first line has {name}: separate columns by commas"
    return CsvHeaderError(f"CSV must contain 'code' and 'client_id' columns{hint}")


def _checked_code(code: str) -> str:
    if not code.strip():
        raise _RowError(Reason.EMPTY if not _control(code) else Reason.CONTROL_CHARACTER)
    if _not_utf8(code):
        raise _RowError(Reason.NOT_UTF8)
    if len(code) > CODE_CHARACTERS:
        raise _RowError(Reason.TOO_LONG)
    if _control(code):
        raise _RowError(Reason.CONTROL_CHARACTER)
    return code


def _texts(lines: list[bytes], at: int, taken: list[bytes]) -> Iterator[str]:
    """Lines from `at` on, as long as they may belong to one row; those given out are put into `taken`."""
    for line in islice(lines, at, None):
        if not _may_go_on(taken) or line is OVERLONG:
            return
        taken.append(line)
        yield line.decode("utf-8", "surrogateescape") + "\n"


def _may_go_on(taken: Sequence[bytes]) -> bool:
    return len(taken) < ROW_LINES and sum(map(len, taken)) <= LINE_BYTES
