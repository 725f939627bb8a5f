"""The process that writes workbooks: a cut input leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.workbook_input import workbook_lines


def run(directory: Path, given: list[bytes]) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "issuer.reports.workbook", str(directory / "things.xlsx")]
    return subprocess.run(command, input=b"\n".join(given), capture_output=True, timeout=60, check=False)


def test_the_process_leaves_a_whole_workbook_or_nothing(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert run(whole, workbook_lines(5)).returncode == 0
    assert [path.name for path in whole.iterdir()] == ["things.xlsx"]
    done = run(cut, workbook_lines(5)[:-1])
    assert (done.returncode, done.stderr) == (1, b"TruncatedError: the input ends after 5 rows\n")
    assert not cut.exists()
