"""Failpoints that a test plants into a process of the program.

Nothing in the program knows of them: Python runs the module `sitecustomize` of PYTHONPATH when it starts. A worker ends
when it brings a batch of a certain name to Redis. An API process stops at a step of a points move, until the test has
killed what it wants to kill.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

DEADLY: Final = "deadly"
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
    return _plant(directory, _SITE)


def _plant(directory: Path, site: str) -> dict[str, str]:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sitecustomize.py").write_text(site)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH", "")]))}


STEPS: Final = (
    "before the debit", "in the debit", "debited", "asked", "in the settlement", "settled", "in the transfer",
    "transferred",
)  # fmt: skip
"""The places between any two steps of a purchase or a transfer, where an API process can stop."""

_MOVES: Final = """
import asyncio, functools, os, pathlib, sys

if "tests.faults.api_program" in sys.orig_argv:
    from issuer.loyalty import executor, purchase_store, purchases, writing

    DIRECTORY = pathlib.Path(os.environ["FAILPOINTS"])

    async def reach(step):
        reached = DIRECTORY / f"reached {step}"
        try:
            (DIRECTORY / f"armed {step}").rename(reached)
        except FileNotFoundError:
            return
        while reached.exists():
            await asyncio.sleep(0.005)

    def moves_points(writes, *_):
        return any(row[1] == "transfer" for row in writes.rows.get("new_moves", ()))

    def stop(owner, name, step, *, behind=False, only=lambda *_: True):
        plain = getattr(owner, name)

        @functools.wraps(plain)
        async def stopping(*values, **named):
            if not behind:
                await reach(step)
            result = await plain(*values, **named)
            if behind and only(*values):
                await reach(step)
            return result

        setattr(owner, name, stopping)

    stop(purchases.Purchases, "_debit", "before the debit")
    stop(purchase_store.BeginPurchase, "keep", "in the debit", behind=True)
    stop(purchases.Purchases, "_ask", "debited")
    stop(purchases.Purchases, "_settle", "asked")
    stop(purchase_store, "_record_code", "in the settlement", behind=True)
    stop(purchase_store.UndoPurchase, "keep", "in the settlement", behind=True)
    stop(purchases.Purchases, "_settle", "settled", behind=True)
    stop(writing.Writes, "write", "in the transfer", behind=True, only=moves_points)
    stop(executor.LoyaltyExecutor, "transfer", "transferred", behind=True)
"""


class MoveFailpoints:
    """Stops an API process between two steps of a points move. The process that reaches an armed step waits there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "failpoints"
        self._directory.mkdir(parents=True, exist_ok=True)
        self.environment = _plant(directory / "site", _MOVES) | {"FAILPOINTS": str(self._directory)}

    def arm(self, step: str) -> None:
        """Let the next process that reaches the step stop there."""
        (self._directory / f"armed {step}").touch()

    def is_reached(self, step: str) -> bool:
        return (self._directory / f"reached {step}").exists()

    def pass_on(self, step: str) -> None:
        """Let the process continue; if none has reached the step, none stops there."""
        for state in ("armed", "reached"):
            (self._directory / f"{state} {step}").unlink(missing_ok=True)
