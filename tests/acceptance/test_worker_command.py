"""The command `python -m sync_worker`."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("start", 2)])
def test_the_worker_command_takes_no_arguments(argument: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sync_worker", argument], capture_output=True, text=True, timeout=30
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "python -m sync_worker" in (done.stdout or done.stderr)
