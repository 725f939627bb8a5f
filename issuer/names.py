"""Names of batches and API keys, which people choose."""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME: Final = 255

# Control characters, lone surrogates (which UTF-8 cannot encode) and the two separators that terminals break lines at.
_FORBIDDEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def name_problem(name: str) -> str | None:
    """Return why this cannot be a name, as a message for the caller; None: it can."""
    if not name.strip():
        return "name must not be empty"
    if len(name) > MAX_NAME:
        return f"name must have at most {MAX_NAME} characters"
    # The common case, checked first: no printable character is forbidden.
    if name.isprintable():
        return None
    if any(unicodedata.category(character) in _FORBIDDEN for character in name):
        return "name must not contain control characters"
    return None
