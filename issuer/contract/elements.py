"""The elements of a pool's list in Redis: a code, and behind it the attributes that came with it.

An element is the code in UTF-8. Where the code has attributes, ATTRIBUTES_MARK and a JSON object with them follow.
Neither a code nor JSON has control characters, so the mark ends the code. redeem.lua takes elements as they are: into
answers, kept answers and events. Each of their readers removes the attributes from the code.
"""

from __future__ import annotations

from typing import Final

ATTRIBUTES_MARK: Final = b"\x1d"

ELEMENT: Final = "{table}.code || coalesce(chr(29) || {table}.attributes::text, '')"
"""The element in SQL, of a table with the columns `code` and `attributes`."""


def code_of(element: str) -> str:
    """Return the code of an element."""
    return element.partition("\x1d")[0]
