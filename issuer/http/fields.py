"""What a request says, checked: ids, pages, JSON bodies. Whatever is wrong with them is a 400 that says what."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from issuer.batches.rules import Rules, RulesError, parse_rules
from issuer.http.problems.problem import ProblemError, invalid
from issuer.instants import InvalidInstantError, parse_instant
from issuer.paging import MAX_LIMIT, Page

DEFAULT_LIMIT: Final = 100
UUID_FORM: Final = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
KEY_FORM: Final = re.compile(rb"[\x20-\x7e]{1,255}")
"""An Idempotency-Key."""


def answer(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def is_uuid(text: str) -> bool:
    """Whether it is an id as the API writes them."""
    return UUID_FORM.fullmatch(text) is not None


def path_id(request: Request, name: str) -> UUID:
    """An id in the path: batch_id, client_id, customer_id or job_id."""
    return _id(str(request.path_params[name]), name)


def query_id(request: Request, name: str) -> UUID | None:
    """The same as a query parameter; absent: None."""
    text = request.query_params.get(name)
    return None if text is None else _id(text, name)


def _id(text: str, name: str) -> UUID:
    if not is_uuid(text):
        raise invalid(f"invalid {name} format", f"invalid_{name}")
    return UUID(text)


def known_query(request: Request, *names: str) -> None:
    """Refuses parameters that the operation does not know, and repeated ones: a typing error shows at once."""
    for name in request.query_params:
        if name not in names:
            raise invalid(
                f"unknown query parameter {shown_name(name)}" + (f"; known are {', '.join(names)}" if names else "")
            )
        if len(request.query_params.getlist(name)) > 1:
            raise invalid(f"query parameter {name} is given more than once")


def page_query(request: Request, *others: str) -> tuple[int, str | None]:
    """limit and cursor."""
    known_query(request, "limit", "cursor", *others)
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid(f"limit must be a whole number from 1 to {MAX_LIMIT}")
    cursor = request.query_params.get("cursor")
    if cursor == "":
        raise invalid("invalid cursor", "invalid_cursor")
    return int(text), cursor


def page_answer(page: Page[Any], show: Callable[[Any], object]) -> Response:
    return answer({"items": [show(item) for item in page.items], "next_cursor": page.next_cursor})


def parsed_json(body: bytes) -> Any:
    """What a body says, with no name given twice in it and no NaN."""
    try:
        return json.loads(body.decode(), object_pairs_hook=distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid("cannot parse json", "unparsable_json") from error


async def json_object(request: Request, known: Collection[str]) -> dict[str, Any]:
    """The body as a JSON object with no other keys than the known ones, and none of them twice."""
    value = parsed_json(await request.body())
    if not isinstance(value, dict):
        raise invalid("cannot parse json", "unparsable_json")
    for key in value:
        if key not in known:
            raise invalid(f"unknown field {shown_name(key)}; known are {', '.join(known)}")
    return value


def id_field(values: Mapping[str, Any], name: str) -> UUID | None:
    """An id in a body; null and absent: None."""
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or UUID_FORM.fullmatch(value) is None:
        raise invalid(f"invalid {name} format", f"invalid_{name}")
    return UUID(value)


def name_field(values: Mapping[str, Any]) -> str:
    name = values.get("name")
    if not isinstance(name, str):
        raise invalid("name must be a string")
    return name


def rules_field(values: Mapping[str, Any]) -> Rules:
    """Rules; null and absent: none."""
    try:
        return parse_rules(values.get("rules"))
    except RulesError as error:
        raise bad_rules(error) from error


def bad_rules(error: RulesError) -> ProblemError:
    return invalid(str(error), "invalid_rules")


def instant_field(values: Mapping[str, Any], name: str) -> datetime | None:
    """An instant with an offset; null and absent: None."""
    value = values.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(f"{name} must be a string with a time, such as 2026-06-01T00:00:00+02:00")
    try:
        return parse_instant(value)
    except InvalidInstantError as error:
        raise invalid(f"{name}: {error}") from error


def flag_field(values: Mapping[str, Any], name: str) -> bool | None:
    """true or false; absent: None."""
    if name not in values:
        return None
    value = values[name]
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value


def shown_name(text: str) -> str:
    """A name that somebody sent, safe to repeat in an answer."""
    short = text if len(text) <= 40 else text[:39] + "…"
    return ascii(short)


def distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
