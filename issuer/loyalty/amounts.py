"""Figures in requests and answers: points are integers, money is a decimal string with the digits of its currency.

A ledger counts minor units, so 12.50 in EUR is 1250. A JSON number is read exactly as it was written, never as a float;
one that a client computed as a float, such as 0.30000000000000004, has too many digits and is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from issuer.loyalty.bounds import MAX_POINTS
from issuer.loyalty.terms import POINTS
from issuer.money import CURRENCIES, MoneyError, from_minor, parse_amount, parse_currency, show_decimal, to_minor

_WHOLE: Final = re.compile(r"-?[0-9]{1,15}", re.ASCII)
_MONEY: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,4})?", re.ASCII)


class InvalidAmountError(ValueError):
    """The value is no number of points, or no amount of money. The message names the field."""


class OtherCurrencyError(ValueError):
    """The amount is in another currency than the one in which the order is counted."""


def parse_points(value: object, unit: str, name: str = "points") -> int:
    """Return a number of points above 0; in minor units where the unit of the program is a currency.

    Raises InvalidAmountError.
    """
    if unit != POINTS:
        return parse_money(value, unit, name)
    points = _whole(value)
    if points is None or not 1 <= points <= MAX_POINTS:
        raise InvalidAmountError(f"{name} must be a whole number from 1 to {MAX_POINTS}")
    return points


def parse_change(value: object, unit: str, name: str = "points") -> int:
    """Return a number of points as `parse_points`, which may have a minus in front. Raises InvalidAmountError."""
    if isinstance(value, str) and value.startswith("-"):
        return -parse_points(value[1:], unit, name)
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and value < 0:
        return -parse_points(-value, unit, name)
    return parse_points(value, unit, name)


def parse_money(value: object, currency: str, name: str) -> int:
    """Return an amount above 0 in minor units of the currency. Raises InvalidAmountError."""
    text = f"{value}" if isinstance(value, int | Decimal) and not isinstance(value, bool) else value
    if not isinstance(text, str) or _MONEY.fullmatch(text) is None:
        raise InvalidAmountError(f'{name} must be an amount such as "{show_points(1250, currency)}"')
    try:
        minor = to_minor(parse_amount(text, currency), currency)
    except MoneyError as error:
        raise InvalidAmountError(f"{name} {error}") from error
    if minor > MAX_POINTS:
        raise InvalidAmountError(f"{name} must be at most {show_points(MAX_POINTS, currency)}")
    return minor


def check_currency(value: object, currency: str) -> None:
    """Check that a request means the currency that it has to mean. Raises InvalidAmountError, OtherCurrencyError."""
    if not isinstance(value, str):
        raise InvalidAmountError("currency must be a string such as EUR")
    try:
        given = parse_currency(value)
    except MoneyError as error:
        raise InvalidAmountError(f"currency {error}") from error
    if given != currency:
        raise OtherCurrencyError(f"currency must be {currency}, in which the order is counted")


def show_points(points: int, unit: str) -> int | str:
    """Return a figure of a ledger as answers have it: 0.1 + 0.2 is "0.30" in EUR."""
    return points if unit == POINTS else show_decimal(from_minor(points, unit))


def has_minor_units(currency: str) -> bool:
    """Whether ISO 4217 defines minor units of the currency, so that its amounts can be counted."""
    return CURRENCIES.get(currency) is not None


def _whole(value: object) -> int | None:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
