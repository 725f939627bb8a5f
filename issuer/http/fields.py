"""Read and check ids, pages and JSON bodies of requests. Every fault is a 400 that names it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from issuer.batches.rules import Rules, parse_rules
from issuer.http.problems.problem import ProblemError, invalid
from issuer.http.strict_json import parse_object
from issuer.ids import Identity, InvalidIdError, id_of, parse_uuid
from issuer.instants import InvalidInstantError, parse_instant
from issuer.paging import MAX_LIMIT, Page
from issuer.storage.stores import Stores

DEFAULT_LIMIT: Final = 100
PAGED: Final = ("limit", "cursor")
"""The query parameters of a paged list."""


def json_response(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def bad_id(name: str, why: str | None = None) -> ProblemError:
    """Return the 400 for an id. `why`: what is wrong with one that may be a text."""
    problem = invalid(f"invalid {name} format", f"invalid_{name}")
    problem.detail = why and f"{name}: {why}"
    return problem


def path_id(request: Request, name: str) -> UUID:
    """Return an id of the path that is a UUID, such as batch_id or job_id."""
    return uuid_of(request.path_params[name], name)


def uuid_of(value: object, name: str) -> UUID:
    """Return an id that is a UUID, in any form. Raises ProblemError."""
    found = parse_uuid(value) if isinstance(value, str) else None
    if found is None:
        raise bad_id(name)
    return found


def path_number(request: Request, name: str) -> int | None:
    """Return a number of the path, from 1 to 2^63 - 1; None: it is none, so nothing has it."""
    text = request.path_params[name]
    number = int(text) if re.fullmatch(r"[1-9][0-9]{0,18}", text, re.ASCII) else 0
    return number if 0 < number < 2**63 else None


def query_flag(request: Request, name: str) -> bool:
    """Return a boolean of the query; False if it is absent."""
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise invalid(f"{name} must be true or false")
    return value == "true"


def identify(stores: Stores, value: object, name: str) -> Identity:
    """Return the id of a client or customer, which may be a text of the caller's own. Raises ProblemError."""
    if not isinstance(value, str):
        raise bad_id(name, "an id is a string")
    try:
        return id_of(value, stores.incarnations.installation_id)
    except InvalidIdError as error:
        raise bad_id(name, str(error)) from error


def check_query(request: Request, names: Collection[str], *, lenient: bool = False) -> None:
    """Refuse repeated query parameters, and unless `lenient` unknown ones, so that a misspelled name is not ignored."""
    if not request.scope["query_string"]:
        return
    for name in request.query_params:
        if len(request.query_params.getlist(name)) > 1:
            raise invalid(f"query parameter {quoted_name(name)} is given more than once")
        if name not in names and not lenient:
            known = f"known are {', '.join(names)}" if names else "this path takes none"
            raise invalid(f"unknown query parameter {quoted_name(name)}; {known}")


def page_query(request: Request) -> tuple[int, str | None]:
    """Return `limit` and `cursor` of a paged list."""
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid(f"limit must be a whole number from 1 to {MAX_LIMIT}")
    cursor = request.query_params.get("cursor")
    if cursor == "":
        raise invalid("invalid cursor", "invalid_cursor")
    return int(text), cursor


def page_response(page: Page[Any], show: Callable[[Any], object]) -> Response:
    return json_response({"items": [show(item) for item in page.items], "next_cursor": page.next_cursor})


async def json_object(request: Request, known: Collection[str], *, exact: bool = False) -> dict[str, Any]:
    """Return the body as a JSON object. Raises InvalidJsonError, and ProblemError for an unknown field.

    `exact`: a number with a fraction is the Decimal that was written, as in `parse_object`.
    """
    value = parse_object(await request.body(), exact=exact)
    refuse_unknown(value, known)
    return value


def refuse_unknown(values: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ProblemError for an unknown field, so that a misspelled name is not ignored."""
    for name in values:
        if name not in known:
            raise invalid(f"unknown field {quoted_name(name)}; known are {', '.join(known)}")


def id_field(values: Mapping[str, Any], name: str) -> UUID | None:
    """Return an id of a body that is a UUID; None if it is null or absent."""
    value = values.get(name)
    return None if value is None else uuid_of(value, name)


def identity_field(stores: Stores, values: Mapping[str, Any], name: str) -> UUID | None:
    """Return the id of a client or customer in a query or body; None if it is null or absent."""
    value = values.get(name)
    return None if value is None else identify(stores, value, name).uuid


def name_field(values: Mapping[str, Any]) -> str:
    name = values.get("name")
    if not isinstance(name, str):
        raise invalid("name must be a string")
    return name


def rules_field(values: Mapping[str, Any]) -> Rules:
    """Return the rules of a body; without limits if they are null or absent. Raises RulesError."""
    return parse_rules(values.get("rules"))


def instant_field(values: Mapping[str, Any], name: str) -> datetime | None:
    """Return an instant of a body, which must have an offset; None if it is null or absent."""
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
    """Return a boolean of a body; None if it is absent."""
    if name not in values:
        return None
    value = values[name]
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value


def quoted_name(text: str) -> str:
    """Return a name from a request, shortened and escaped so that a response may quote it."""
    short = text if len(text) <= 40 else text[:39] + "…"
    return ascii(short)
