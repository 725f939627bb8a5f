"""An installation is backed up while it serves, destroyed, and restored by the steps of docs/operations.md."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from tests.support.documented_commands import blocks_of
from tests.support.installation import STOP_LIMIT_S, Installation, gone, redeemed
from tests.support.servers import wait_until

MAX_BACKLOG: Final = 100
EXAMPLE: Final = re.compile(r"backups/issuer-20990101\S+Z")


def number(code: str) -> int:
    """The position of a code of the demo in its pool."""
    return int(code.removeprefix("DEMO-"))


def documented_restore(backup: Path) -> str:
    """What a reader types."""
    (block,) = (block for block in blocks_of("docs/operations.md") if "issuer restore" in block.text)
    return "set -euo pipefail\n" + EXAMPLE.sub(str(backup), block.text)


def redeem_with(installation: Installation, customer: str, key: str) -> str:
    """Send the printed request for a customer, with an Idempotency-Key."""
    words = shlex.split(installation.curl)
    (url,) = (word for word in words if word.startswith("http"))
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1]) | {"customerid": customer}
    headers = {"Authorization": f"Bearer {installation.api_key}", "Idempotency-Key": key}
    response = httpx.post(url, json=body, headers=headers, timeout=60)
    return str(response.json()["code"])


def freeze_worker(installation: Installation) -> Any:
    (worker,) = [child for child in installation.children() if "sync_worker" in child.cmdline()]
    worker.suspend()
    return worker


@pytest.mark.long
@pytest.mark.parametrize("journals_survive", [False, True])
def test_a_destroyed_installation_is_restored_from_its_backup(tmp_path: Path, journals_survive: bool) -> None:
    installation = Installation(tmp_path, environment={"ISSUER_MAX_BACKLOG": str(MAX_BACKLOG)})
    customer, key = str(uuid4()), uuid4().hex
    with installation:
        before = [redeemed(installation) for _ in range(5)]
        wait_until(lambda: '"backlog": 0' in installation.command("status", "--json").stdout, "the ledger has them", 60)
        # Answered, and not in the ledger when the dump is made.
        worker = freeze_worker(installation)
        first_answer = redeem_with(installation, customer, key)
        made = installation.command("backup", "backups", "--json")
        assert made.returncode == 0, made.stderr
        assert json.loads(made.stdout)["backlog"] == 1
        worker.resume()
        api_key = installation.api_key
        changed = installation.command("batches", "set-rules", "Demo", '{"maxpercustomer": 5}')
        assert changed.returncode == 0, changed.stderr
        after = [redeemed(installation) for _ in range(3)]
        # As the machine ends: nothing is settled, and the journals stay.
        children = installation.children()
        installation.signal(signal.SIGKILL)
        wait_until(lambda: gone(children), "its processes have ended", 60)
    (backup,) = (tmp_path / "backups").iterdir()
    assert {path.name for path in backup.iterdir()} >= {"secret-key", "api-key", "backup.json"}
    for path in installation.data.iterdir():
        if path.name != "journals" or not journals_survive:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    environment = installation.environment | {"PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", documented_restore(backup)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=STOP_LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"quarantined: {MAX_BACKLOG} codes of 1 pools" in done.stdout

    with installation:
        assert installation.api_key == api_key
        # What was answered before the backup is answered again; what may have been issued since is not issued again.
        assert redeem_with(installation, customer, key) == first_answer
        known = after if journals_survive else [first_answer]
        assert number(redeemed(installation)) == number(known[-1]) + MAX_BACKLOG + 1
        assert number(first_answer) == number(before[-1]) + 1
        balanced = installation.command("reconcile")
        assert balanced.returncode == 0, balanced.stdout + balanced.stderr
        quarantined = installation.command("quarantine", "list", "--json").stdout
        assert f'"held": {MAX_BACKLOG}' in quarantined
        again = installation.command("restore", str(backup))
        assert (again.returncode, "is running on" in again.stderr) == (1, True)
