"""What a request or a command says about a coupon: its code, or the form of one that is drawn, and its terms.

Every value may be text, as in a form or an option, or what JSON has for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any, Final

from issuer.batches.rules import Rules, parse_rules, parse_rules_text
from issuer.coupons.coupon import MAX_USES, CouponError, CouponTerms
from issuer.coupons.expiry import parse_expiry
from issuer.coupons.folding import count_folded, fold
from issuer.generating.alphabets import AlphabetName
from issuer.generating.code_format import SAFE_ATTEMPTS, CodeFormat, CodeFormatError
from issuer.ids import parse_uuid
from issuer.instants import InvalidInstantError
from issuer.money import MoneyError, parse_amount, parse_currency, parse_percentage
from issuer.names import first_unseen, has_dot_segment, text_problem, trimmed, without_unseen

MAX_CODE_CHARACTERS: Final = 255
MAX_DIGITS: Final = 20
"""Digits of a decimal number that are read; no amount or percentage has as many."""
MIN_SPACE: Final = 500 * SAFE_ATTEMPTS
"""Codes that a code of a coupon is drawn from, at least: of five hundred coupons of one form, a million random attempts
find one at most, on average. The example of the predecessor, six characters of the default alphabet, is above it."""
_WHOLE: Final = re.compile(r"[0-9]{1,15}", re.ASCII)

FORMAT_FIELDS: Final = ("code_length", "prefix", "suffix", "pattern", "alphabet", "check")

Fields = dict[str, Any]


class InvalidCouponError(CouponError):
    """A value is not valid; the message names the field."""


def text_field(values: Mapping[str, Any], name: str) -> str | None:
    """Return a text without surrounding spaces; None if it is empty, null or absent."""
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidCouponError(f"{name} must be a string")
    text = value.strip()
    if not text:
        return None
    if (problem := text_problem(text)) is not None:
        raise InvalidCouponError(problem.replace("name", name, 1))
    return text


def code_field(values: Mapping[str, Any]) -> str:
    """Return the code of an existing coupon, as pasted. Raises InvalidCouponError if it is missing."""
    code = without_unseen(text_field(values, "code") or "")
    if not code:
        raise InvalidCouponError("code is required")
    return code


def is_usable_code(code: str) -> bool:
    """Return whether the code can be looked up, and has a path that is not `/coupon/consume/`."""
    return fold(code) not in ("", "consume") and not has_dot_segment(code)


def new_code(values: Mapping[str, Any]) -> str | None:
    """Return the code of a new coupon; None if it is to be drawn."""
    code = trimmed(text_field(values, "code") or "")
    if not code:
        return None
    if (unseen := first_unseen(code, spaces=True)) is not None:
        raise InvalidCouponError(f"code must not contain invisible characters, such as {unseen}")
    if not is_usable_code(code):
        raise InvalidCouponError(
            "code must have letters or digits, must not be the word consume, nor have . or .. between slashes"
        )
    if parse_uuid(code) is not None:
        raise InvalidCouponError("code must not have the form of a UUID: it would be taken for an id")
    for name in FORMAT_FIELDS:
        if name not in ("code_length", "alphabet") and values.get(name) not in (None, ""):
            raise InvalidCouponError(f"{name} is for codes that are drawn, and code is given")
    return code


def integer_field(values: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """Return an integer, given as a JSON number or as digits; None if it is empty, null or absent."""
    value = values.get(name)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value)
    if value is None or value == "":
        return None
    # bool is a subclass of int, but true is not a valid number here.
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidCouponError(f"{name} must be a whole number from {least} to {most}")
    return value


def flag_field(values: Mapping[str, Any], name: str) -> bool | None:
    """Return a boolean, given as JSON or as the text of a form; None if it is null or absent."""
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise InvalidCouponError(f"{name} must be true or false")
    return bool(value == "true")


def code_format(values: Mapping[str, Any]) -> CodeFormat:
    """Return the format of a code that is to be drawn."""
    try:
        form = CodeFormat(
            length=integer_field(values, "code_length", 1, MAX_CODE_CHARACTERS),
            prefix=text_field(values, "prefix") or "",
            suffix=text_field(values, "suffix") or "",
            pattern=text_field(values, "pattern"),
            alphabet=text_field(values, "alphabet") or AlphabetName.UNAMBIGUOUS,
            check=flag_field(values, "check") or False,
        )
    except CodeFormatError as error:
        raise InvalidCouponError(str(error).replace("length ", "code_length ", 1)) from error
    _check_space(form)
    return form


def _check_space(form: CodeFormat) -> None:
    # What a look-up ignores cannot make a code harder to find by trial.
    size = count_folded(form.characters)
    if size ** (form.places - form.check) >= MIN_SPACE:
        return
    field, places = ("pattern", "places (#)") if form.pattern is not None else ("code_length", "characters")
    if size < 2:
        raise InvalidCouponError("alphabet needs two characters that look-ups of coupons distinguish")
    needed = form.check + next(n for n in count(1) if size**n >= MIN_SPACE)
    raise InvalidCouponError(
        f"{field} needs at least {needed} {places} with this alphabet: a code that is drawn must be one of"
        f" {MIN_SPACE:,}, so that it cannot be found by trial"
    )


def terms_fields(values: Mapping[str, Any], before: CouponTerms | None, currency: str) -> Fields:
    """Return the fields of CouponTerms that the request sets. `before`: the present terms; None: a new coupon."""
    terms: Fields = {}
    if (available := integer_field(values, "availability_count", 0 if before else 1, MAX_USES)) is not None:
        terms["available"] = available
    elif before is None:
        raise InvalidCouponError("availability_count is required")
    if "expiry_date" in values:
        terms["expires_at"] = _expiry(text_field(values, "expiry_date"))
    for name in ("product_id", "promo_type"):
        if name in values:
            terms[name] = text_field(values, name)
    if "discount_variable" in values:
        terms["discount_variable"] = _percentage(decimal_field(values, "discount_variable"))
    if "discount_fixed" in values or "currency" in values:
        terms["discount_fixed"], terms["currency"] = _money(values, before, currency)
    if "rules" in values:
        terms["rules"] = _rules(values["rules"])
    if (paused := flag_field(values, "paused")) is not None:
        terms["paused"] = paused
    return terms


def _expiry(text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_expiry(text)
    except InvalidInstantError as error:
        raise InvalidCouponError(f"expiry_date: {error}") from error


def decimal_field(values: Mapping[str, Any], name: str) -> str | None:
    """Return a decimal number as text, given as text or as a JSON number; None if it is empty, null or absent."""
    value = values.get(name)
    if isinstance(value, Decimal) and abs(value.adjusted()) < MAX_DIGITS:
        # Without an exponent, which would also write out numbers of any length.
        return f"{value:f}"
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    return text_field(values, name)


def _percentage(text: str | None) -> Decimal | None:
    try:
        return None if text is None else parse_percentage(text)
    except MoneyError as error:
        raise InvalidCouponError(f"discount_variable {error}") from error


def _money(values: Mapping[str, Any], before: CouponTerms | None, default: str) -> tuple[Decimal | None, str | None]:
    currency = text_field(values, "currency")
    try:
        currency = parse_currency(currency or (before and before.currency) or default)
    except MoneyError as error:
        raise InvalidCouponError(f"currency {error}") from error
    amount = decimal_field(values, "discount_fixed")
    if "discount_fixed" not in values and before is not None and before.discount_fixed is not None:
        amount = f"{before.discount_fixed:f}"
    try:
        return (None, None) if amount is None else (parse_amount(amount, currency), currency)
    except MoneyError as error:
        raise InvalidCouponError(f"discount_fixed {error}") from error


def _rules(value: object) -> Rules:
    return parse_rules_text(value) if isinstance(value, str) else parse_rules(value)
