"""Names that people give to batches and API keys."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME: Final = 255

# Control characters, lone surrogates (no UTF-8 for them) and the two separators that terminals take for line breaks.
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def name_problem(name: str) -> str | None:
    """Why this cannot be a name, in words for whoever chose it; None: it can."""
    if not name.strip():
        return "name must not be empty"
    if len(name) > MAX_NAME:
        return f"name must have at most {MAX_NAME} characters"
    # Most names are: nothing that is forbidden can be printed.
    if name.isprintable():
        return None
    if any(unicodedata.category(character) in _FORBIDDEN for character in name):
        return "name must not contain control characters"
    return None
