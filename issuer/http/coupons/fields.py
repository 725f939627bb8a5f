"""Read the fields of coupon requests. Query, form and JSON body are equivalent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.datastructures import UploadFile
from starlette.requests import Request

from issuer.coupons.fields import Fields
from issuer.http import fields
from issuer.http.fields import quoted_name
from issuer.http.multipart_form import is_multipart, multipart_form
from issuer.http.problems.problem import invalid
from issuer.http.strict_json import parse_object, unique_members, without_mark
from issuer.storage.stores import Stores

MAX_FIELDS: Final = 50


async def read_fields(request: Request) -> Fields:
    """Return all fields of the query and the body, also those that no operation knows.

    Absent, empty and null mean the same, except in a change: there an absent field keeps its value.
    """
    query = query_fields(request.url.query)
    if is_multipart(request):
        async with multipart_form(request, max_files=0, max_fields=MAX_FIELDS) as form:
            body = {name: value for name, value in form.items() if not isinstance(value, UploadFile)}
    else:
        content_type = request.headers.get("content-type", "").encode("latin-1")
        body = body_fields(await request.body(), content_type, exact=True)
    refuse_twice(query, body)
    return query | body


def query_fields(query: str) -> Fields:
    return _without_duplicates(_pairs(query)) if query else {}


def body_fields(body: bytes, content_type: bytes, *, exact: bool = False) -> Fields:
    """Parse a body as JSON if it starts with a brace, which no form does, or is sent as JSON; otherwise as a form.

    `exact`: numbers of JSON are not floats, as in `parse_object`. Raises InvalidJsonError and ProblemError.
    """
    if body.startswith(b"{"):
        return parse_object(body, exact=exact)
    if not body:
        return {}
    text = without_mark(body).strip()
    # Read as a form, any other text would be unknown fields, and ignored.
    if text.startswith(b"{") or content_type[:16].lower() == b"application/json":
        return parse_object(text, exact=exact)
    try:
        fields = _without_duplicates(_pairs(text.decode()))
    except UnicodeDecodeError as error:
        raise invalid("the form is not UTF-8") from error
    if not fields:
        # Separators alone, such as `&`: what the caller meant is lost, so it is not taken for an empty change.
        raise invalid("the body is neither a JSON object nor a form with fields")
    return fields


def refuse_twice(query: Fields, names: Iterable[str]) -> None:
    """Raise ProblemError for a field that is in the query and also in the body, which has fields with these names."""
    if twice := query.keys() & names:
        raise invalid(f"{quoted_name(min(twice))} is given more than once")


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise invalid("the fields cannot be read: too many, or not UTF-8") from error


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> Fields:
    try:
        return unique_members(pairs)
    except ValueError as error:
        raise invalid(str(error)) from error


def identity_field(stores: Stores, values: Mapping[str, Any], name: str) -> UUID | None:
    """Return the id of a client or customer; None if it is empty, null or absent."""
    return None if values.get(name) == "" else fields.identity_field(stores, values, name)
