"""Read the JSON of shops: ids, texts and amounts. Every fault names the field. No number becomes a float."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from issuer.loyalty.hooks.events import MAX_TEXT
from issuer.money import CURRENCIES
from issuer.names import text_problem

MAX_AMOUNT: Final = Decimal(10**12)

Json = Mapping[str, Any]


class ShopBodyError(ValueError):
    """The body is not what the shop's documentation describes. The message names the field."""


def parse_body(raw: bytes) -> Json:
    """Return the object of a body. A number with a fraction is the Decimal that was written."""
    try:
        value = json.loads(raw, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise ShopBodyError("the body is not JSON") from error
    if not isinstance(value, dict):
        raise ShopBodyError("the body is not a JSON object")
    return value


def member(values: Json, name: str) -> Json:
    """Return an object; empty if it is null or absent."""
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ShopBodyError(f"{name} must be an object")
    return value


def members(values: Json, name: str) -> list[Json]:
    """Return a list of objects; empty if it is null or absent."""
    value = values.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ShopBodyError(f"{name} must be a list of objects")
    return value


def id_of(values: Json, name: str) -> str:
    """Return an id, which is a number or a text."""
    value = values.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return str(value)
    if not isinstance(value, str) or text_problem(value) is not None:
        raise ShopBodyError(f"{name} must be a number or a text of at most {MAX_TEXT} characters")
    return value


def text_of(values: Json, name: str) -> str | None:
    """Return a text; None if it is null, absent, empty or of no use."""
    value = values.get(name)
    if not isinstance(value, str) or text_problem(value) is not None:
        return None
    return value.strip()


def currency_of(values: Json, name: str = "currency") -> str:
    value = values.get(name)
    if not isinstance(value, str) or value not in CURRENCIES:
        raise ShopBodyError(f"{name} must be a currency of ISO 4217, such as EUR")
    return value


def amount_of(values: Json, name: str) -> Decimal:
    """Return an amount, which is a number or a text such as 12.50, and may be negative."""
    value = values.get(name)
    if isinstance(value, str):
        try:
            value = Decimal(value)
        except ArithmeticError as error:
            raise ShopBodyError(f"{name} must be an amount such as 12.50") from error
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ShopBodyError(f"{name} must be an amount such as 12.50")
    amount = Decimal(value)
    if not amount.is_finite() or abs(amount) > MAX_AMOUNT:
        raise ShopBodyError(f"{name} must be an amount of at most {MAX_AMOUNT}")
    return amount


def total_of(values: list[Json], name: str) -> Decimal:
    """Return the sum of the amounts with this name."""
    return sum((amount_of(one, name) for one in values), Decimal(0))


def flag_of(values: Json, name: str) -> bool:
    """Return a boolean; false if it is null or absent."""
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise ShopBodyError(f"{name} must be true or false")
    return bool(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
