"""Files of codes as people have them: what each program writes, and what each becomes when it is loaded."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID
from zipfile import ZIP_DEFLATED, ZipFile

import openpyxl
import xlsxwriter

CLIENT: Final = UUID("11111111-1111-4111-8111-111111111111")
_CODE_NAMES: Final = "; understood for the code: code, codes, coupon code, voucher code, promo code, discount code"
_NAMES: Final = f"{_CODE_NAMES}; understood for the client: client_id, client"
_SAVE: Final = "save it as .xlsx or as CSV UTF-8"


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, the codes of it that are loaded, how many rows are rejected, and the message about them or the file."""

    name: str
    data: bytes
    codes: tuple[str, ...] = ()
    rejected: int = 0
    message: str = ""
    client: UUID | None = None
    sheet: str | None = None


def text(
    *rows: str, separator: str = ",", end: str = "\n", encoding: str = "utf-8", header: str = "client_id,code"
) -> bytes:
    """Return a file with this header and a row for each field `code`, all of one client."""
    lines = [header, *(f"{CLIENT},{row}" for row in rows)]
    return "".join(line.replace(",", separator) + end for line in lines).encode(encoding)


def workbook(*rows: tuple[Any, ...], header: tuple[str, ...] = ("client_id", "code"), title: str = "Codes") -> bytes:
    """Return a workbook with these rows, each the cells behind the client."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = title
    sheet.append(header)
    for row in rows:
        sheet.append((str(CLIENT), *row))
    book.create_sheet("Other").append(("nothing",))
    return saved(book)


def saved(book: Any) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def padded_workbook() -> bytes:
    """Return a workbook of another program with numbers that are shown with leading zeros."""
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet, padded = book.add_worksheet(), book.add_format({"num_format": "00000"})
        shop = book.add_format({"num_format": '"SHOP-"0000'})
        sheet.write_row(2, 1, ["Client ID", "Coupon code"])
        sheet.write_row(3, 1, [str(CLIENT), 12], padded)
        sheet.write_row(5, 1, [str(CLIENT), 13], shop)
    return file.getvalue()


def without_size(data: bytes) -> bytes:
    """Return the workbook with a sheet that states a wrong size, as some programs write it."""
    return replaced(data, b'<dimension ref="A1:B3"', b'<dimension ref="A1:A1"')


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """Return the workbook with other bytes in its sheets."""
    file = io.BytesIO()
    with ZipFile(io.BytesIO(data)) as source, ZipFile(file, "w", ZIP_DEFLATED) as target:
        for part in source.infolist():
            content = source.read(part)
            if part.filename.startswith("xl/worksheets/"):
                content = content.replace(old, new)
            target.writestr(part.filename, content)
    return file.getvalue()


def archive(**parts: bytes) -> bytes:
    """Return a zip archive; `__` in a name stands for a slash."""
    file = io.BytesIO()
    with ZipFile(file, "w") as target:
        for name, content in parts.items():
            target.writestr(name.replace("__", "/"), content)
    return file.getvalue()


_CELLS: Final = workbook(("A1",), (12,), (13.0,), ("0012",), ('="0014"',), (" B\u200b",))
_NO_TEXT: Final = workbook(("A1",), (date(2026, 3, 1),), ("=A1&B1",), (1.5,), (10**15,), (True,), ("#N/A",))

FILES: Final = (
    InputFile("utf-8, commas, LF", text("A1", "A2"), ("A1", "A2")),
    InputFile("utf-8 with BOM, CRLF", text("A1", "Ö2", end="\r\n", encoding="utf-8-sig"), ("A1", "Ö2")),
    InputFile("CR line ends (old Mac)", text("A1", "A2", end="\r"), ("A1", "A2")),
    InputFile("semicolons (Excel, German)", text("A1", "A2", separator=";", end="\r\n"), ("A1", "A2")),
    InputFile("tabs", text("A1", "A2", separator="\t"), ("A1", "A2")),
    InputFile("sep=; line", b"sep=;\r\n" + text("A1", separator=";", end="\r\n"), ("A1",)),
    InputFile("sep=| line", b"sep=|\r\n" + text("A1", separator="|", end="\r\n"), ("A1",)),
    InputFile("utf-16, tabs (Excel, Unicode text)", text("A1", "Ö2", separator="\t", encoding="utf-16"), ("A1", "Ö2")),
    InputFile("utf-16 BE without BOM", text("A1", encoding="utf-16-be"), ("A1",)),
    InputFile("header ClientID;Code", text("A1", separator=";", header="ClientID,Code"), ("A1",)),
    InputFile("header Client ID, Coupon code", text("A1", header="Client ID,Coupon code"), ("A1",)),
    InputFile("codes only, client given", b"Code\r\nA1\r\nA2\r\n", ("A1", "A2"), client=CLIENT),
    InputFile("codes only, no client", b"Code\r\nA1\r\n", message="the file needs the columns 'code' and "
              f"'client_id'; the first row has 'Code'{_NAMES}"),
    InputFile("codes without a header", b"A1\r\nA2\r\n", client=CLIENT, message="the file needs a column 'code'; the "
              f"first row has 'A1': is the header line missing?{_CODE_NAMES}"),
    InputFile('="0012" of Excel', text('="0012"', '"=""0013"""'), ("0012", "0013")),
    InputFile("blank rows, empty columns", text("A1,,") + b",,,\n\n  \n" + text("A2,,")[len(text()) :], ("A1", "A2")),
    InputFile("invisible characters at the ends", text("\ufeffA1", "A2\u200b", "\u00a0A3 "), ("A1", "A2", "A3")),
    InputFile("an invisible character inside", text("A1", "A\u200b2"), ("A1",), 1,
              "line 3: invisible character in the code: U+200B ZERO WIDTH SPACE at 2"),
    InputFile("bad rows", text("A1", "").replace(b"A1\n", b"A1\n,A2\n"), ("A1",), 2, "line 3: no client"),
    InputFile("Windows-1252", text("A1", "Ö2", encoding="cp1252"), ("A1",), 1, "line 3: invalid UTF-8"),
    InputFile("no valid row", text("", "A\u200b2"), message="nothing was loaded: none of 2 rows is valid: line 2: "
              "empty code; line 3: invisible character in the code: U+200B ZERO WIDTH SPACE at 2"),
    InputFile("only a header", text(), message="nothing was loaded: the file has no rows of codes"),
    InputFile("empty file", b"", message="the file has no header: it is empty"),
    InputFile(".xlsx: texts and numbers", _CELLS, ("A1", "12", "13", "0012", "0014", "B")),
    InputFile(".xlsx: no texts", _NO_TEXT, ("A1",), 6, "line 3: the cell is not a text: a date or time"),
    InputFile(".xlsx: leading zeros by format", padded_workbook(), ("00012",), 1,
              "line 6: the cell is not a text: a number shown as '\"SHOP-\"0000'"),
    InputFile(".xlsx: wrong size stated", without_size(workbook(("A1",), ("A2",))), ("A1", "A2")),
    InputFile(".xlsx: a sheet by name", workbook(("A1",), title="Mai"), ("A1",), sheet="Mai"),
    InputFile(".xlsx: an unknown sheet", workbook(("A1",)), sheet="Juni", message="the workbook cannot be read: it has "
              "no sheet 'Juni', only 'Codes', 'Other'"),
    InputFile(".xlsx: no header", workbook(("A1",), header=("Kunde", "Nr")), message="the file needs the "
              f"columns 'code' and 'client_id'; the first row has 'Kunde', 'Nr': is the header line missing?{_NAMES}"),
    InputFile(".xlsx: cut off", workbook(("A1",))[:-200], message="the workbook cannot be read: it is damaged or "
              "incomplete; save it as CSV UTF-8"),
    InputFile(".xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
              message=f"the file is an old Excel workbook (.xls), or one with a password: {_SAVE}"),
    InputFile(".ods", archive(mimetype=b"application/vnd.oasis.opendocument.spreadsheet", **{"content.xml": b"<x/>"}),
              message=f"the file is an OpenDocument file (.ods): {_SAVE}"),
    InputFile(".zip of a CSV", archive(**{"codes.csv": text("A1")}), message=f"the file is a zip archive: {_SAVE}"),
    InputFile(".xlsb", archive(**{"[Content_Types].xml": b"<x/>", "xl__workbook.bin": b"x"}),
              message=f"the file is a binary Excel workbook (.xlsb): {_SAVE}"),
    InputFile("a PDF", b"%PDF-1.7\n" + bytes(600), message=f"the file is a PDF: {_SAVE}"),
    InputFile("HTML named .xls", b"<html><body><table><tr><td>code" + b" " * 600,
              message=f"the file is an HTML page: {_SAVE}"),
)  # fmt: skip
