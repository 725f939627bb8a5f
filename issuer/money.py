"""Decimal numbers: amounts of money in a currency, and percentages. Never a float."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from iso4217 import Currency

_DECIMAL: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,4})?", re.ASCII)
CURRENCIES: Final = {currency.code: currency.exponent for currency in Currency}
"""The number of decimals of each currency, by its three letters (None: ISO 4217 does not define it)."""


class MoneyError(ValueError):
    """The text is not a valid amount, percentage or currency; the message says why."""


def parse_currency(text: str) -> str:
    """Return the three letters of a currency of ISO 4217, in upper case. Raises MoneyError."""
    code = text.strip().upper()
    if code not in CURRENCIES:
        raise MoneyError("must be a currency as ISO 4217 has it, such as EUR")
    return code


def parse_amount(text: str, currency: str) -> Decimal:
    """Return an amount above 0 with at most as many decimals as its currency has. Raises MoneyError."""
    amount = _decimal(text)
    exponent = CURRENCIES[currency]
    if exponent is not None and _places(amount) > exponent:
        raise MoneyError(f"must have at most {exponent} decimals in {currency}")
    return amount


def parse_percentage(text: str) -> Decimal:
    """Return a percentage above 0 and at most 100. Raises MoneyError."""
    percentage = _decimal(text)
    if percentage > 100:
        raise MoneyError("must be a percentage, at most 100")
    return percentage


def show_decimal(value: Decimal) -> str:
    """Return the number with its decimals as given, never in exponent notation."""
    return f"{value:f}"


def _decimal(text: str) -> Decimal:
    if _DECIMAL.fullmatch(text.strip()) is None:
        raise MoneyError("must be a decimal number such as 5.00")
    value = Decimal(text.strip())
    if value == 0:
        raise MoneyError("must be above 0")
    return value


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def to_minor(amount: Decimal, currency: str) -> int:
    """Return an amount of `parse_amount` in minor units, such as cents. Raises MoneyError if ISO 4217 has none."""
    exponent = CURRENCIES[currency]
    if exponent is None:
        raise MoneyError(f"{currency} has no minor units")
    return int(amount.scaleb(exponent))


def from_minor(minor: int, currency: str) -> Decimal:
    """Return the amount of `to_minor`, with all decimals of the currency."""
    return Decimal(minor).scaleb(-(CURRENCIES[currency] or 0))
