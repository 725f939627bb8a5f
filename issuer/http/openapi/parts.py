"""Building blocks of the operations in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.examples import EXAMPLES
from issuer.http.openapi.fields import FIELDS
from issuer.http.openapi.shapes import UUID, Schema, ref
from issuer.http.problems.problem import MEDIA_TYPE
from issuer.paging import MAX_LIMIT

_ERRORS: Final = {
    400: "The request is not valid",
    401: "The API key is missing or unknown",
    403: "Not allowed with this API key, or not at this time",
    404: "Not found",
    405: "The path does not support this method",
    408: "The request did not arrive in time",
    409: "Not possible in the present state of the resource",
    410: "The batch or coupon has expired",
    413: "The body is too large",
    415: "The media type of the body is not supported",
    422: "The Idempotency-Key was used for another request",
    429: "Too many requests, failed look-ups or jobs, or more at once than a client may have; see Retry-After",
    431: "The request head is too large",
    500: "The server failed to handle the request",
    501: "The compression is not supported, or an extra is not installed on the server",
    503: "Temporarily unavailable; retry after the time in Retry-After",
    504: "The deadline of the caller has passed",
    507: "The codes do not fit into Redis",
}
_ANYWHERE: Final = (400, 405, 408, 413, 431, 500, 503)
"""Errors that any request can cause."""
_GUARDED: Final = (401, 403, 429)

_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}}
_TEXT: Final[Schema] = {"schema": {"type": "string"}}
_ERROR_HEADERS: Final[dict[int, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    403: _RETRY_AFTER,
    409: _RETRY_AFTER,
    405: {"Allow": {"required": True, "schema": {"type": "string"}}},
    429: {
        "Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "integer", "minimum": 1}},
        "RateLimit-Policy": {"description": "The rate limit that was reached", **_TEXT},
        "RateLimit": {"description": "The remaining quota and the seconds until it grows", **_TEXT},
    },
    503: _RETRY_AFTER,
}
_LIMIT: Final[Schema] = {
    "name": "limit",
    "in": "query",
    "description": "Maximum number of items in a page",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100},
}
_CURSOR: Final[Schema] = {
    "name": "cursor",
    "in": "query",
    "description": "`next_cursor` of the previous page",
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
}
PAGED: Final = [_LIMIT, _CURSOR]
OPERATOR: Final = "Requires an API key with the scope `admin` that is not bound to a client."
IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeated request of the same customer in the same batch returns the same result, for 24 hours",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}

_KEPT: Final[Schema] = {
    **IDEMPOTENCY_KEY,
    "description": "A repeat of the request with the same key changes nothing and gets the same answer, for 24 hours",
}
REPLAYED: Final[Schema] = {
    "Idempotency-Replayed": {"description": "Present if this repeats an earlier answer", "schema": {"const": "true"}}
}


def path_parameter(name: str, schema: Schema = UUID) -> Schema:
    described = {"description": FIELDS[name]} if name in FIELDS else {}
    return {"name": name, "in": "path", "required": True, **described, "schema": schema}


def json_content(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def body(name: str, media_type: str = "application/json") -> Schema:
    return {"required": True, **example_content(name, media_type)}


def example_content(name: str, media_type: str = "application/json") -> Schema:
    """Return the content of a request with the example of its schema."""
    content = json_content(ref(name), media_type)
    if name in EXAMPLES:
        content["content"][media_type]["example"] = EXAMPLES[name]
    return content


def problem(status: int) -> Schema:
    shown = {"description": _ERRORS[status], **json_content(ref("Problem"), MEDIA_TYPE)}
    return {**shown, "headers": _ERROR_HEADERS[status]} if status in _ERROR_HEADERS else shown


def operation(
    tag: str,
    summary: str,
    answers: dict[int, Schema],
    *errors: int,
    description: str = "",
    public: bool = False,
    **more: Any,
) -> Schema:
    """Return an operation. `answers`: its responses other than problems, by status."""
    statuses = sorted({*_ANYWHERE, *errors, *(() if public else _GUARDED)} - set(answers))
    responses = {str(status): answer for status, answer in answers.items()}
    responses |= {str(status): problem(status) for status in statuses}
    operation: Schema = {"tags": [tag], "summary": summary, **more, "responses": responses}
    if description:
        operation["description"] = description
    return {**operation, "security": []} if public else operation


def keeping(post: Schema) -> Schema:
    """Return a POST with its Idempotency-Key, unless it describes one itself, as hot routes do."""
    parameters: list[Schema] = post.get("parameters", [])
    if any(parameter["name"] == IDEMPOTENCY_KEY["name"] for parameter in parameters):
        return post
    responses = {
        status: {**answer, "headers": {**answer.get("headers", {}), **REPLAYED}} if status < "300" else answer
        for status, answer in post["responses"].items()
    }
    refusals = {str(status): problem(status) for status in (409, 422)}
    return {**post, "parameters": [*parameters, _KEPT], "responses": dict(sorted({**refusals, **responses}.items()))}


def ok(description: str, schema: Schema, **more: Any) -> Schema:
    return {"description": description, **json_content(schema), **more}
