"""The rules of a batch: how many codes one customer may redeem, and in which period."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

MAX_REDEMPTIONS: Final = 10_000
"""Redemptions that a limit may count at most: a customer's window holds that many times."""
MAX_DAYS: Final = 3_650
MAX_SECONDS: Final = 315_360_000
MAX_LIMITS: Final = 4

_DAY_MS: Final = 86_400_000
_KEYS: Final = ("maxpercustomer", "timelimit", "limits")
_LIMIT_KEYS: Final = ("max", "seconds")


class RulesError(ValueError):
    """The rules are invalid. The message names the key and is written for the author of the rules."""


@dataclass(frozen=True, slots=True)
class CustomerLimit:
    """At most `max` redemptions of one customer in any `window_ms` (None: without a time limit)."""

    max: int
    window_ms: int | None


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of one batch. None: no limit, or no time limit. `limits` are those besides maxpercustomer."""

    maxpercustomer: int | None = None
    timelimit_days: int | None = None
    limits: tuple[CustomerLimit, ...] = ()

    def all_limits(self) -> tuple[CustomerLimit, ...]:
        """Return every limit that must hold, first maxpercustomer with its timelimit."""
        if self.maxpercustomer is None:
            return self.limits
        window_ms = None if self.timelimit_days is None else self.timelimit_days * _DAY_MS
        return (CustomerLimit(self.maxpercustomer, window_ms), *self.limits)

    def packed(self) -> str:
        """Return the limits as the scripts read them: ``max:window_ms,…``; a window of 0 has no time limit."""
        return ",".join(f"{limit.max}:{limit.window_ms or 0}" for limit in self.all_limits())

    def to_json(self) -> dict[str, Any]:
        """Return the rules as the API shows and Postgres stores them; `parse_rules` reads them back unchanged.

        ``maxpercustomer`` and ``timelimit`` are always present and always whole numbers, because integrations
        read them as such: 0 means no limit and no time limit. ``limits`` is present only if there are any.
        """
        shown: dict[str, Any] = {
            "maxpercustomer": self.maxpercustomer or 0,
            "timelimit": self.timelimit_days or 0,
        }
        if self.limits:
            shown["limits"] = [{"max": limit.max, "seconds": (limit.window_ms or 0) // 1000} for limit in self.limits]
        return shown

    def to_text(self) -> str:
        """Return the rules as the JSON text that Postgres stores."""
        return orjson.dumps(self.to_json()).decode()


NO_RULES: Final = Rules()


def parse_rules(value: object) -> Rules:
    """Return the rules of decoded JSON. None and ``{}`` are no rules.

    ``maxpercustomer``: 1 to 10,000; 0, null or absent: no limit. ``timelimit``: 1 to 3,650 days; 0, null or
    absent: no time limit. ``limits``: up to four ``{"max": 1 to 10,000, "seconds": 1 to 315,360,000}``, all of
    which must hold. Raises RulesError for anything else, including unknown keys.
    """
    if value is None:
        return NO_RULES
    rules = _mapping(value, "rules", _KEYS)
    limits = rules.get("limits")
    if limits is None:
        limits = []
    if not isinstance(limits, list):
        raise RulesError("rules: limits must be a list")
    if len(limits) > MAX_LIMITS:
        raise RulesError(f"rules: limits may have at most {MAX_LIMITS} entries")
    return Rules(
        maxpercustomer=_number(rules, "maxpercustomer", "rules", 0, MAX_REDEMPTIONS) or None,
        timelimit_days=_number(rules, "timelimit", "rules", 0, MAX_DAYS) or None,
        limits=tuple(_limit(limit, f"rules: limits[{index}]") for index, limit in enumerate(limits)),
    )


def parse_rules_text(text: str | bytes) -> Rules:
    """Return the rules of JSON text, such as an option or a form field; empty text: no rules. Raises RulesError."""
    if not text.strip():
        return NO_RULES
    try:
        value = json.loads(text, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
    except RulesError:
        raise
    except (ValueError, RecursionError) as error:
        raise RulesError(f"rules: not valid JSON: {error}") from error
    return parse_rules(value)


def _limit(value: object, where: str) -> CustomerLimit:
    limit = _mapping(value, where, _LIMIT_KEYS)
    maximum = _number(limit, "max", where, 1, MAX_REDEMPTIONS)
    seconds = _number(limit, "seconds", where, 1, MAX_SECONDS)
    if maximum is None or seconds is None:
        raise RulesError(f"{where}: needs max and seconds")
    return CustomerLimit(maximum, seconds * 1000)


def _mapping(value: object, where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RulesError(f"{where}: must be an object")
    for key in value:
        if key not in known:
            raise RulesError(f"{where}: unknown key {_quote(key)}; known are {', '.join(known)}")
    return value


def _number(values: Mapping[str, Any], key: str, where: str, minimum: int, maximum: int) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    # bool is a subclass of int, but true is not a number of codes.
    if isinstance(value, bool) or not isinstance(value, int):
        raise RulesError(f"{where}: {key} must be a whole number")
    if not minimum <= value <= maximum:
        raise RulesError(f"{where}: {key} must be {minimum} to {maximum}")
    return value


def _quote(key: object) -> str:
    text = str(key)
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _refuse_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise RulesError(f"rules: key {_quote(key)} is given twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> Any:
    raise RulesError(f"rules: {name} is not a number")
