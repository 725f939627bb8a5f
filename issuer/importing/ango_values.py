"""Values of Ango as this service stores them. What has no counterpart here becomes the stricter one, and is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from issuer.batches.batch import InvalidBatchError, check_name
from issuer.batches.rules import MAX_DAYS, MAX_REDEMPTIONS, Rules

Note = Callable[[str], None]
"""Called with what differs from the source, in words."""

_KNOWN: Final = ("maxpercustomer", "timelimit")


class BadRulesError(ValueError):
    """The rules cannot be read, so nothing of the batch can be imported: its limits would not hold."""


def name_of(name: str | None, batch_id: UUID, note: Note) -> str:
    """Return the name of a batch. One that cannot be a name here is replaced."""
    if name is not None:
        try:
            check_name(name)
        except InvalidBatchError as error:
            note(f"another name was given: {error}")
        else:
            return name
    return f"Ango {str(batch_id)[:8]}"


def rules_of(text: str | None, note: Note) -> Rules:
    """Return the rules of JSON text. As in Go, names of keys are read in any case; 0 and less mean no limit.

    Raises BadRulesError.
    """
    values = _decoded(text)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key.lower() in _KNOWN:
            found[key.lower()] = value
        else:
            note(f"the rule {key!r} is not known and was left out")
    most, days = (_number(found, key) for key in _KNOWN)
    if most > MAX_REDEMPTIONS:
        note(f"maxpercustomer {most} became {MAX_REDEMPTIONS}, the highest value here")
    if days > MAX_DAYS:
        note(f"timelimit {days} became 0, without a time limit: it is over {MAX_DAYS} days")
    return Rules(min(most, MAX_REDEMPTIONS) or None, (days if days <= MAX_DAYS else 0) or None)


def _decoded(text: str | None) -> dict[str, Any]:
    value: Any = text
    # Twice: rules that were stored as a text are a JSON string in a column of type json.
    for _ in range(2):
        if value is None or (isinstance(value, str) and not value.strip()):
            return {}
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise BadRulesError(f"its rules are not JSON: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRulesError("its rules are not a JSON object")
    return value


def _number(values: dict[str, Any], key: str) -> int:
    value = values.get(key) or 0
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRulesError(f"its rule {key} is not a whole number")
    return max(value, 0)
