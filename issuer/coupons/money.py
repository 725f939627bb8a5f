"""Decimal numbers as coupons have them: amounts of money in a currency, and percentages. Never a float."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from iso4217 import Currency

_DECIMAL: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,4})?", re.ASCII)
CURRENCIES: Final = {currency.code: currency.exponent for currency in Currency}
"""By their three letters, how many decimals each has (None: not said)."""


class MoneyError(ValueError):
    """Not an amount, a percentage or a currency; the message says why."""


def parse_currency(text: str) -> str:
    """The three letters of a currency that ISO 4217 lists, in capitals."""
    code = text.strip().upper()
    if code not in CURRENCIES:
        raise MoneyError("must be a currency as ISO 4217 has it, such as EUR")
    return code


def parse_amount(text: str, currency: str) -> Decimal:
    """An amount above 0 with no more decimals than its currency has."""
    amount = _decimal(text)
    exponent = CURRENCIES[currency]
    if exponent is not None and _places(amount) > exponent:
        raise MoneyError(f"must have at most {exponent} decimals in {currency}")
    return amount


def parse_percentage(text: str) -> Decimal:
    """Above 0 and at most 100."""
    percentage = _decimal(text)
    if percentage > 100:
        raise MoneyError("must be a percentage, at most 100")
    return percentage


def show_decimal(value: Decimal) -> str:
    """As it was given, with its decimals, and never as a power of ten."""
    return f"{value:f}"


def _decimal(text: str) -> Decimal:
    if _DECIMAL.fullmatch(text.strip()) is None:
        raise MoneyError('must be a decimal number as text, such as "5.00"')
    value = Decimal(text.strip())
    if value == 0:
        raise MoneyError("must be above 0")
    return value


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0
