"""Sheets of cards as a PDF, drawn by a process of its own: it blocks no other task and frees its memory."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import orjson

EXTRA: Final = ("reportlab", "segno")
"""What the extra `cards` installs."""
_COMMAND: Final = (sys.executable, "-m", "issuer.loyalty.card_sheet")


class ExtraMissingError(Exception):
    """The installation lacks an extra of this project; the message names it."""


class CardPrintingError(Exception):
    """The sheets could not be drawn; the message says why."""


@dataclass(frozen=True, slots=True)
class CardSheet:
    """What is printed: the same two texts on every card, and its number. `font`: a TrueType font, or the default."""

    title: str
    caption: str
    numbers: Sequence[str]
    font: Path | None

    def to_json(self) -> dict[str, Any]:
        font = None if self.font is None else str(self.font)
        return {"title": self.title, "caption": self.caption, "numbers": list(self.numbers), "font": font}


async def print_cards(sheet: CardSheet) -> bytes:
    """Return the PDF. If this task is cancelled, the process ends. Raises ExtraMissingError, CardPrintingError."""
    if any(find_spec(name) is None for name in EXTRA):
        raise ExtraMissingError("sheets of cards need an extra that is not installed: pip install 'issuer[cards]'")
    process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        output, errors = await process.communicate(orjson.dumps(sheet.to_json()))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise CardPrintingError(lines[-1] if lines else f"exit code {process.returncode}")
    return output
