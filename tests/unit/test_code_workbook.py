"""Workbooks of codes: the bounds of what is read from one that was built to harm."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from issuer.loading import read_workbook
from tests.support.input_files import CLIENT, replaced, workbook


def read(data: bytes) -> list[Any]:
    return [orjson.loads(line) for line in read_workbook.encoded(read_workbook.rows_of(io.BytesIO(data)))]


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        ("MAX_EXPANDED_BYTES", "it expands to more than"),
        ("MAX_PARTS", "it expands to more than"),
        ("MAX_SHEETS", "it has more than 1 sheets"),
        ("MAX_OUTPUT_BYTES", "its cells have more than"),
    ],
)
def test_a_workbook_beyond_a_limit_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str, error: str) -> None:
    data = workbook(("A1",))
    assert read(data) == [[1, ["client_id", "code"]], [2, [str(CLIENT), "A1"]], {"rows": 2}]
    monkeypatch.setattr(read_workbook, limit, 1)
    assert read(data)[-1]["error"].startswith(error)


def test_entities_do_not_expand() -> None:
    declared = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 100 if n else "x" * 100}">' for n in range(8))
    bomb = replaced(workbook(("A1",)), b"<worksheet", b"<!DOCTYPE w [" + declared.encode() + b"]><worksheet")
    bomb = replaced(bomb, b"</sheetData>", b'<row r="9"><c r="A9" t="str"><v>&e7;</v></c></row></sheetData>')
    assert read(bomb)[-1] == {"error": "it is damaged or not an .xlsx (ParseError); save it as CSV UTF-8"}


def test_rows_and_columns_have_an_end() -> None:
    far = replaced(workbook(("A1",), ("A2",)), b'<row r="3"', b'<row r="99999999999"')
    assert read(far)[-1] == {"rows": 2}
    wide = replaced(workbook(("A1",)), b'r="B2"', b'r="XFD2"')
    assert read(wide)[1] == [2, [str(CLIENT)]]
