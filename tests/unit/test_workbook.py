"""Workbooks: several sheets, and truncated input."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from issuer.reports.workbook import TruncatedError, write_workbook
from tests.support.workbook_input import HEAD, workbook_lines


@pytest.mark.parametrize(("count", "sheets"), [(0, [0]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_rows_beyond_one_sheet_are_written_to_the_next(tmp_path: Path, count: int, sheets: list[int]) -> None:
    file = tmp_path / "things.xlsx"
    assert write_workbook(workbook_lines(count), file, sheet_rows=3) == count
    book = openpyxl.load_workbook(file)
    names = ["things", *(f"things {number}" for number in range(2, len(sheets) + 1))]
    assert book.sheetnames == [*names, "total"]
    found = []
    for name, size in zip(names, sheets, strict=True):
        head, *rows = book[name].iter_rows(values_only=True)
        assert (head, len(rows)) == (("id", "name"), size)
        found += rows
    assert found == [(number, f"={number}") for number in range(count)]
    assert [*book["total"].iter_rows(values_only=True)] == [("rows", count)]


@pytest.mark.parametrize("given", [[], [HEAD], workbook_lines(3)[:-1], [*workbook_lines(3)[:-1], b'{"rows":4}']])
def test_truncated_input_is_refused(tmp_path: Path, given: list[bytes]) -> None:
    with pytest.raises(TruncatedError):
        write_workbook(given, tmp_path / "things.xlsx")
