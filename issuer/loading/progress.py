"""The progress of a load or a generation job, reported to the command that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Phase(StrEnum):
    """What a load or job is doing."""

    GENERATING = "generating"
    READING = "reading"
    IMPORTING = "importing"
    NUMBERING = "numbering"
    LOADING = "loading"


Progress = Callable[[Phase, int, int | None], None]
"""Called with the phase, the amount done and, if known, the total: bytes read, or codes generated or loaded."""


def ignore_progress(phase: Phase, done: int, of: int | None) -> None:
    """Do nothing: the default for callers that do not show progress."""
