"""What a code is looked up by: how somebody types it must not matter."""

from __future__ import annotations

import unicodedata
from typing import Final
from uuid import UUID, uuid5

_NAMESPACE: Final = UUID("6f0b6c3e-8d2a-5b7e-9a41-0c5d2f7e1b36")
_DASHES: Final = "Pd"
_MINUS: Final = "\u2212"
_ALIKE: Final = str.maketrans({"o": "0", "i": "1", "l": "1"})


def fold(code: str) -> str:
    """The code without what no look-up tells apart: case, spaces and dashes."""
    if code.isascii():
        # Most are: the same result, at a tenth of the cost.
        return "".join(code.lower().split()).replace("-", "")
    folded, before = code, ""
    # What one step leaves may melt into something that the next one changes: until nothing does.
    while folded != before:
        before = folded
        text = unicodedata.normalize("NFKC", before).casefold()
        folded = unicodedata.normalize("NFKC", "".join(filter(_counts, text)))
    return folded


def _counts(character: str) -> bool:
    return not character.isspace() and character != _MINUS and unicodedata.category(character) != _DASHES


def fold_fully(folded: str) -> str:
    """A folded code with O read as 0, and I and L as 1, whatever the alphabet that it is made of."""
    return folded.translate(_ALIKE)


def coupon_id(client_id: UUID, fully_folded: str) -> UUID:
    """The id of the coupon's batch. Made of client and code, so that a use of it needs no directory to find it."""
    return uuid5(_NAMESPACE, f"{client_id}:{fully_folded}")
