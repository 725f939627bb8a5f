"""Completion by the shell, which starts a process for each press of the key."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.environment import clean_environment


def test_the_shell_completes_commands_without_importing_the_drivers() -> None:
    environment = clean_environment(
        _ISSUER_COMPLETE="complete_bash", COMP_WORDS="issuer batches e", COMP_CWORD="2", PYTHONPROFILEIMPORTTIME="1"
    )
    done = subprocess.run(
        [sys.executable, "-c", "from issuer.cli import app; app(prog_name='issuer')"],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == ["export", "expire"]
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "issuer.cli.export" in imported
    assert not imported & {"redis", "asyncpg", "structlog", "pydantic_settings", "issuer.cli.progress"}
