"""An asynchronous standby of Postgres, which has not received the last commits when it takes over."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from issuer.embedded.binaries import server_user
from tests.support.servers import PostgresServer


def lagging_standby(primary: PostgresServer, directory: Path) -> PostgresServer:
    """A standby, not yet started, that got nothing after this moment. Its start promotes it: it has a new timeline."""
    standby = PostgresServer(directory)
    directory.mkdir(exist_ok=True)
    standby.data.mkdir(mode=0o700)
    if (user := server_user(standby.data)) is not None:
        shutil.chown(standby.data, user)
    program, url = standby.programs / "pg_basebackup", primary.url()
    command = standby._launch(program, "--checkpoint=fast", "--no-sync", "-d", url, "-D", standby.data)
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (standby.data / "recovery.signal").touch()
    standby.options |= {"restore_command": "false", "hot_standby": "off"}
    return standby
