"""What a client of the predecessor sends: an e-mail address, points, and whether it wants marketing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Never

from issuer.http.problems.problem import invalid
from issuer.http.strict_json import parse_object

MAX_POINTS: Final = 10**12


@dataclass(frozen=True, slots=True)
class AccountFields:
    """The fields of an account. None: not given."""

    email: str = ""
    points: int | None = None
    marketing: bool | None = None


_KINDS: Final[Mapping[str, type]] = {"email": str, "rewardpoints": int, "marketing": bool}


def read_body(body: bytes) -> AccountFields:
    """Return the fields of a body. Raises InvalidJsonError, and ProblemError for a value of the wrong type."""
    values = {name: value for name, value in parse_object(body).items() if name in _KINDS and value is not None}
    for name, value in values.items():
        if type(value) is not _KINDS[name]:
            raise invalid(f"{name} must be {_DESCRIBED[_KINDS[name]]}")
    return _fields(values)


def read_body_leniently(body: bytes) -> AccountFields:
    """Return the fields as the predecessor reads them (encoding/json of Go, whose errors it only logs).

    A body that is no JSON has no fields, and a value of the wrong type is none. The case of names does not count, and
    of several members with one name the last counts.
    """
    try:
        members = json.loads(
            body.decode(errors="replace"),
            object_pairs_hook=tuple,
            parse_int=_int64,
            parse_float=_not_whole,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        return AccountFields()
    values = {}
    for name, value in members if isinstance(members, tuple) else ():
        kind = _KINDS.get(name.lower())
        if kind is not None and type(value) is kind:
            values[name.lower()] = value
    return _fields(values)


def read_form_fields(form: Mapping[str, str]) -> AccountFields:
    """Return the fields of a form. An empty one is not given. Raises ProblemError."""
    points, marketing = form.get("points", "").strip(), form.get("marketing", "").strip().lower()
    if points and _WHOLE.fullmatch(points) is None:
        raise invalid("points must be a whole number")
    if marketing not in _FORM_FLAGS:
        raise invalid("marketing must be true or false")
    given = {"email": form.get("email", "").strip(), "marketing": _FORM_FLAGS[marketing]}
    return _fields(given | ({"rewardpoints": int(points)} if points else {}))


_DESCRIBED: Final = {str: "a string", int: "a whole number", bool: "true or false"}
_WHOLE: Final = re.compile("[+-]?[0-9]{1,19}")
_FORM_FLAGS: Final[dict[str, bool | None]] = {
    "": None, "true": True, "false": False, "on": True, "off": False, "1": True, "0": False,
}  # fmt: skip


def _fields(values: Mapping[str, Any]) -> AccountFields:
    points = values.get("rewardpoints")
    if points is not None and abs(points) > MAX_POINTS:
        raise invalid(f"rewardpoints must be from -{MAX_POINTS} to {MAX_POINTS}")
    return AccountFields(values.get("email", ""), points, values.get("marketing"))


def _int64(digits: str) -> int | None:
    number = int(digits) if len(digits) <= 20 else None
    return number if number is not None and -(2**63) <= number < 2**63 else None


def _not_whole(_: str) -> None:
    return None


def _refuse(name: str) -> Never:
    raise ValueError(f"{name} is no JSON")
