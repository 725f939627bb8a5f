"""The process that writes workbooks: further sheets, and that a cut input leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import openpyxl
import orjson
import pytest

from issuer.reports.workbook import TruncatedError, write_workbook

HEAD = orjson.dumps({"name": "things", "columns": ["id", "name"]})


def lines(count: int) -> list[bytes]:
    rows = [orjson.dumps({"id": number, "name": f"={number}"}) for number in range(count)]
    return [HEAD, *rows, orjson.dumps({"rows": count})]


@pytest.mark.parametrize(("count", "sheets"), [(0, [0]), (3, [3]), (4, [3, 1]), (6, [3, 3]), (7, [3, 3, 1])])
def test_rows_that_do_not_fit_into_a_sheet_go_to_the_next(tmp_path: Path, count: int, sheets: list[int]) -> None:
    file = tmp_path / "things.xlsx"
    assert write_workbook(lines(count), file, sheet_rows=3) == count
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


@pytest.mark.parametrize("given", [[], [HEAD], lines(3)[:-1], [*lines(3)[:-1], b'{"rows":4}']])
def test_input_that_breaks_off_is_no_workbook(tmp_path: Path, given: list[bytes]) -> None:
    with pytest.raises(TruncatedError):
        write_workbook(given, tmp_path / "things.xlsx")


def run(directory: Path, given: list[bytes]) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "issuer.reports.workbook", str(directory / "things.xlsx")]
    return subprocess.run(command, input=b"\n".join(given), capture_output=True, timeout=60, check=False)


def test_the_process_leaves_a_whole_workbook_or_nothing(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert run(whole, lines(5)).returncode == 0
    assert [path.name for path in whole.iterdir()] == ["things.xlsx"]
    done = run(cut, lines(5)[:-1])
    assert (done.returncode, done.stderr) == (1, b"TruncatedError: the input ends after 5 rows\n")
    assert not cut.exists()
