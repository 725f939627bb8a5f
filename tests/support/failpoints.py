"""A failpoint that a test plants into a worker process: it ends when it brings a batch of a certain name to Redis.

Nothing in the program knows of it: Python runs the module `sitecustomize` of PYTHONPATH when it starts.
"""

from __future__ import annotations

import os
from pathlib import Path

DEADLY = "deadly"
"""The name of the batches."""

_SITE = """
import sys

if "sync_worker" in sys.orig_argv:
    import ctypes, os, signal
    from issuer.batches import revisions

    push = revisions._push
    DEATHS = {
        "exit": lambda: os._exit(3),
        "segfault": lambda: ctypes.string_at(0),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    }

    async def deadly(stores, connection, row):
        name, _, death = row["name"].partition(" ")
        if name == "deadly":
            DEATHS[death]()
        await push(stores, connection, row)

    revisions._push = deadly
"""


def plant_deadly_batches(directory: Path) -> dict[str, str]:
    """Return what the environment of the worker needs. A batch with the name `deadly segfault` ends it in that way."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sitecustomize.py").write_text(_SITE)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")]))}
