"""The journals that processes of this host have left when they ended, until all of it is settled."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from issuer.journal.journal import JournalHead, boot_id

_REMOVED: Final = ".removed"


@dataclass(frozen=True, slots=True)
class DeadJournal:
    """The journal of a process that has ended. `is_complete`: it is of this boot, so nothing of it can be missing."""

    directory: Path
    head: JournalHead
    is_complete: bool

    @property
    def is_there(self) -> bool:
        """Whether all of it was there until now; False: another process has settled and removed it meanwhile."""
        return self.directory.exists()

    def remove(self) -> None:
        """Delete it. It loses its name first: a process that reads it too finds the whole journal, or none."""
        removed = self.directory.with_suffix(_REMOVED)
        with suppress(OSError):
            self.directory.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def dead_journals(directory: Path, installation: UUID) -> list[DeadJournal]:
    """Return the journals of an installation whose processes have ended. A directory whose head cannot be read is none.

    Any number of processes find the same ones, and none keeps them from the others: a process that has ended never
    locks its journal again, so one look at the lock is enough.
    """
    for removed in directory.glob(f"*{_REMOVED}"):
        # The process that removed it was stopped.
        shutil.rmtree(removed, ignore_errors=True)
    found: list[DeadJournal] = []
    for path in sorted(directory.glob("*/lock")):
        if path.parent.suffix != _REMOVED and not _is_locked(path):
            with suppress(OSError, ValueError):
                head = JournalHead.from_json((path.parent / "head").read_bytes())
                if head.installation == installation:
                    found.append(DeadJournal(path.parent, head, head.boot_id == boot_id() != ""))
    return found


def _is_locked(path: Path) -> bool:
    """Whether its process holds the lock; also if that cannot be found out."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        # Shared: two processes that look at once do not take each other for the owner.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
