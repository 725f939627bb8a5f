"""An installation is backed up while it serves, destroyed, and restored by the steps of docs/operations.md."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documented_commands import blocks_of
from tests.support.installation import STOP_LIMIT_S, Installation, redeemed
from tests.support.servers import wait_until

MAX_BACKLOG = 100
EXAMPLE = re.compile(r"backups/issuer-20990101\S+Z")


def number(code: str) -> int:
    """The position of a code of the demo in its pool."""
    return int(code.removeprefix("DEMO-"))


def documented_restore(servers: Installation, backup: Path) -> str:
    """What a reader types in the second terminal: the printed line, then the block of the page."""
    (block,) = (block for block in blocks_of("docs/operations.md") if "pg_restore" in block.text)
    printed = re.search(r"(?m)^ *(export PATH=.*)$", servers.printed)
    assert printed is not None, servers.printed
    return f"set -euo pipefail\n{printed[1]}\n" + EXAMPLE.sub(str(backup), block.text)


@pytest.mark.long
def test_a_destroyed_installation_is_restored_from_its_backup(tmp_path: Path) -> None:
    installation = Installation(tmp_path, environment={"ISSUER_MAX_BACKLOG": str(MAX_BACKLOG)})
    with installation:
        before = [redeemed(installation) for _ in range(5)]
        wait_until(lambda: '"backlog": 0' in installation.command("status", "--json").stdout, "the ledger has them", 60)
        made = installation.command("backup", "backups")
        assert made.returncode == 0, made.stderr
        key = installation.api_key
        after = redeemed(installation)
    (backup,) = (tmp_path / "backups").iterdir()
    assert {path.name for path in backup.iterdir()} >= {"secret-key", "api-key"}
    shutil.rmtree(installation.data)

    with Installation(tmp_path, "--servers-only") as servers:
        environment = servers.environment | {"PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "-c", documented_restore(servers, backup)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=STOP_LIMIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "verdict: loss" in done.stdout

    with installation:
        assert installation.api_key == key
        first = redeemed(installation)
        # What a customer may have received since the backup is not issued again.
        assert number(first) == number(before[-1]) + MAX_BACKLOG + 1
        assert number(after) < number(first)
        balanced = installation.command("reconcile")
        assert balanced.returncode == 0, balanced.stdout + balanced.stderr
        quarantined = installation.command("quarantine", "list", "--json").stdout
        assert f'"held": {MAX_BACKLOG}' in quarantined
