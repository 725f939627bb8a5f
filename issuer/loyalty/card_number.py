"""Card numbers: what is printed on a card, scanned at the till, and typed where no scanner is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from issuer.coupons.folding import fold
from issuer.generating.code_format import CodeFormat
from issuer.generating.code_source import CodeSource
from issuer.generating.luhn import LuhnModN

FORMAT: Final = CodeFormat(length=12, check=True)
"""11 characters drawn and one to check them. With a million cards one number in 10 ** 10 exists: within the limit of
failed lookups none is found by chance."""
MAX_TYPED: Final = 64
"""Characters of a number that are read, with spaces and hyphens."""
_GROUP: Final = 4
_LUHN: Final = LuhnModN(FORMAT.characters)


def draw_numbers(count: int) -> Sequence[str]:
    """Return `count` different numbers, in milliseconds for each thousand: call it in a thread."""
    return CodeSource(FORMAT).draw(count)


def read_number(typed: str) -> str | None:
    """Return the number that was typed or scanned, in any case, with spaces and hyphens; None: it cannot be one.

    A single wrong character, and nearly every swap of two neighbours, is found here.
    """
    if len(typed) > MAX_TYPED:
        return None
    number = fold(typed).upper()
    return number if len(number) == FORMAT.length and _LUHN.holds(number) else None


def show_number(number: str) -> str:
    """Return a number for people: `ABCD-EFGH-JKMN`."""
    return "-".join(number[start : start + _GROUP] for start in range(0, len(number), _GROUP))
