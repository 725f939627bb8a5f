"""Amounts as staff type them: with a point or a comma for the decimals, and nothing between the thousands.

A scanner types as well. A card that is scanned into the field of an amount must not become a purchase, so what has more
than MAX_DIGITS digits, or a letter, is no amount.
"""

from __future__ import annotations

import re
from typing import Final

from issuer.loyalty.terms import POINTS
from issuer.money import MoneyError, parse_amount, to_minor

MAX_DIGITS: Final = 7
_POINTS: Final = re.compile(f"[0-9]{{1,{MAX_DIGITS}}}", re.ASCII)
_MONEY: Final = re.compile(f"[0-9]{{1,{MAX_DIGITS}}}([.,][0-9]{{1,4}})?", re.ASCII)


class TypedAmountError(ValueError):
    """The text is no amount above 0."""


def read_amount(text: str, unit: str) -> int:
    """Return a number of points, or an amount in minor units of a currency. Raises TypedAmountError."""
    text = text.replace("\u00a0", " ").strip()
    if (_POINTS if unit == POINTS else _MONEY).fullmatch(text) is None:
        raise TypedAmountError("no amount")
    try:
        amount = int(text) if unit == POINTS else to_minor(parse_amount(text.replace(",", "."), unit), unit)
    except MoneyError as error:
        raise TypedAmountError(str(error)) from error
    if amount == 0:
        raise TypedAmountError("no amount above 0")
    return amount
