"""The rows of a file of codes, whatever its format: each is checked, and numbered for COPY or rejected.

An invalid row is rejected with its place and reason and does not affect other rows. The rules:

* A code is text exactly as written, without white space and invisible characters at its ends: ``007`` stays ``007``.
  Excel's ``="007"`` is ``007``. Invisible characters inside a code reject the row: two codes must not look alike.
* Rows without any text, and empty columns beyond those of the header, are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from itertools import islice
from typing import Final

import orjson

from issuer.ids import Identity, InvalidIdError
from issuer.loading.columns import Columns, find_columns
from issuer.loading.file_clients import FileClients, NoClientError, OtherClientError
from issuer.names import first_unseen, trimmed

MAX_CODE_CHARACTERS: Final = 255
MAX_ATTRIBUTES_BYTES: Final = 1_024
"""Of the JSON object with the attributes of a code."""
MAX_REJECTIONS: Final = 1_000
"""Rejections that are reported with line and reason; further ones are only counted."""

_control = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_not_utf8 = re.compile(r"[\ud800-\udfff]").search
_blank = re.compile(r"[\s\u200b-\u200f\u2060\ufeff]*").fullmatch
# How Excel is made to keep leading zeros in a CSV: a formula that is nothing but a text.
_text_formula = re.compile(r'="((?:[^"]|"")*)"', re.DOTALL).fullmatch


class Reason(StrEnum):
    """Why a row was rejected. A character in the code is named behind HIDDEN_CHARACTER, a cell behind BAD_CELL."""

    TOO_FEW_COLUMNS = "too few columns"
    TOO_MANY_COLUMNS = "more columns than the header"
    BAD_CLIENT_ID = "bad client id"
    NO_CLIENT = "no client"
    OTHER_CLIENT = "not the client whose codes are being loaded"
    EMPTY = "empty code"
    TOO_LONG = "code over 255 characters"
    CONTROL_CHARACTER = "control character in the code"
    HIDDEN_CHARACTER = "invisible character in the code"
    CONTROL_CHARACTER_IN_ATTRIBUTE = "control character in an attribute"
    ATTRIBUTES_TOO_LONG = "attributes over 1,024 bytes"
    NOT_UTF8 = "invalid UTF-8"
    BAD_QUOTES = "quotes do not match"
    LINE_TOO_LONG = "line over 65,536 bytes"
    BAD_CELL = "the cell is not a text"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A rejected row: its line in the file or row in the sheet, counting from 1, and the reason."""

    line: int
    reason: str


class RowError(Exception):
    """The row is rejected."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(reason.value if detail is None else f"{reason.value}: {detail}")


class BadCell(str):
    """What stands for a cell of a workbook whose value is no text: why it is none."""

    __slots__ = ()


class CodeRows:
    """The accepted and rejected rows of one file.

    A row for COPY consists of its first line in the file, the index of its client in `clients`, its number among the
    accepted rows of that client (1, 2, …), and the code. Where `clients` have a default, the file needs no client
    column, and an empty field means that client. With `attributes`, the names of columns, their fields follow as a JSON
    object.
    """

    def __init__(self, clients: FileClients, attributes: Sequence[str] = ()) -> None:
        self.clients = clients
        self.attributes = attributes
        self.accepted = 0
        self.rejected = 0
        self.rejections: list[Rejection] = []
        self._names_clients = True
        self._unnamed = 0

    @property
    def without_client(self) -> int:
        """The accepted rows that name no client."""
        return self._unnamed if self._names_clients else self.accepted

    def add(self, line: int, fields: Sequence[str], columns: Columns) -> bytes:
        """Return the numbered row; nothing, if it is blank or rejected. Raises TooManyClientsError."""
        if all(map(_blank, fields)):
            return b""
        try:
            return self._row(line, fields, columns)
        except RowError as error:
            self.reject(line, error)
            return b""

    def find_columns(self, cells: Sequence[str]) -> Columns:
        """Return the columns that a header row names. Raises HeaderRowError."""
        columns = find_columns(cells, needs_client=not self.clients.has_default, attributes=self.attributes)
        self._names_clients = columns.client is not None
        return columns

    def reject(self, line: int, error: RowError) -> None:
        self.rejected += 1
        if len(self.rejections) < MAX_REJECTIONS:
            self.rejections.append(Rejection(line, str(error)))

    def reject_rows(self, count: int, shown: Sequence[Rejection]) -> None:
        """Reject rows that were accepted: `count` of them; `shown` are the first of them, in the order of lines."""
        self.accepted -= count
        self.rejected += count
        self.rejections = list(islice(merge(self.rejections, shown, key=lambda row: row.line), MAX_REJECTIONS))

    def _row(self, line: int, fields: Sequence[str], columns: Columns) -> bytes:
        if len(fields) <= max(columns.code, columns.client or 0):
            raise RowError(Reason.TOO_FEW_COLUMNS)
        if not all(map(_blank, fields[columns.width :])):
            raise RowError(Reason.TOO_MANY_COLUMNS)
        spelled = "" if columns.client is None else fields[columns.client]
        named = field_text(spelled)
        identity = self._find_client(named)
        code = check_code(field_text(fields[columns.code]))
        attributes = self._attributes(fields, columns) if columns.attributes else b""
        # An empty field is not remembered: its rows are counted here, which the fast loop for known spellings skips.
        client = self.clients.add(identity, spelled if named else None)
        self._unnamed += not named
        self.accepted += 1
        client.count += 1
        return b"%d\t%d\t%d\t%b%b\n" % (line, client.index, client.count, _escaped(code.encode()), attributes)

    def _attributes(self, fields: Sequence[str], columns: Columns) -> bytes:
        """Return the last column for COPY."""
        texts = (field_text(fields[at]) if at < len(fields) else "" for at in columns.attributes)
        found = {name: text for name, text in zip(self.attributes, texts, strict=True) if text}
        if not found:
            return b"\t\\N"
        if any(map(_control, found.values())):
            raise RowError(Reason.CONTROL_CHARACTER_IN_ATTRIBUTE)
        json = orjson.dumps(found)
        if len(json) > MAX_ATTRIBUTES_BYTES:
            raise RowError(Reason.ATTRIBUTES_TOO_LONG)
        return b"\t" + _escaped(json)

    def _find_client(self, text: str) -> Identity:
        try:
            return self.clients.find(text)
        except OtherClientError as error:
            raise RowError(Reason.OTHER_CLIENT) from error
        except NoClientError as error:
            raise RowError(Reason.NO_CLIENT) from error
        except InvalidIdError as error:
            raise RowError(Reason.BAD_CLIENT_ID) from error


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\")


def field_text(field: str) -> str:
    """Return the text of a field, without what surrounds it. Raises RowError for the cell of a workbook without one."""
    if isinstance(field, BadCell):
        raise RowError(Reason.BAD_CELL, field)
    if _not_utf8(field):
        raise RowError(Reason.NOT_UTF8)
    text = trimmed(field)
    formula = _text_formula(text) if text.startswith("=") else None
    return text if formula is None else trimmed(formula[1].replace('""', '"'))


def check_code(code: str) -> str:
    """Return the code. Raises RowError if it cannot be one."""
    if not code:
        raise RowError(Reason.EMPTY)
    if len(code) > MAX_CODE_CHARACTERS:
        raise RowError(Reason.TOO_LONG)
    if _control(code):
        raise RowError(Reason.CONTROL_CHARACTER)
    if (unseen := first_unseen(code, spaces=True)) is not None:
        raise RowError(Reason.HIDDEN_CHARACTER, unseen)
    return code
