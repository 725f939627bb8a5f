"""`make` installs what it needs; without a network that fails with one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


@pytest.mark.long
def test_an_installation_without_a_package_index_fails_with_one_sentence(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        ["deploy/install.sh", str(tmp_path), ""],
        env=environment | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cannot install hatchling: the package index cannot be reached, or lacks it;")
    assert done.stderr.count("\n") == 1
    assert "No matching distribution found" in (tmp_path / "install.log").read_text()
