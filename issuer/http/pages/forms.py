"""Forms of pages: where one was sent from, and its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from issuer.http.problems.problem import ProblemError, invalid
from issuer.http.same_origin import check_origin

MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
MAX_FIELDS: Final = 50
FORM_TOKEN: Final = "form_token"
"""The field with the form token (`issuer.sessions.tokens`)."""

STALE_FORM: Final = ProblemError(
    403, "the form is not valid any more", "stale_form", detail="open the page again; it may have been open too long"
)


async def read_form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form, trimmed. Raises ProblemError: 403 as `check_origin`, 400, 415."""
    check_origin(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise ProblemError(415, f"the body must be {MEDIA_TYPE}", "unsupported_media_type")
    try:
        text = (await request.body()).decode()
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise invalid("the form cannot be read") from error
    fields = {name: value.strip() for name, value in pairs}
    if len(fields) != len(pairs):
        raise invalid("the form has a field twice")
    return fields


def local_path(text: str) -> str | None:
    """Return a path of this server to which a form may lead back; None: it is none."""
    is_path = text.isascii() and text.isprintable() and text.startswith("/") and text[1:2] not in ("/", "\\")
    return text if is_path and "\\" not in text else None
