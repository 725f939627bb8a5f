"""Building blocks of the JSON Schemas in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.fields import FIELDS
from issuer.ids import MAX_ID, MAX_READ
from issuer.instants import BOUNDS
from issuer.names import MAX_NAME

Schema = dict[str, Any]

UUID_PATTERN: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_CONTROL: Final = "\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029"
NAME_PATTERN: Final = f"^[^{_CONTROL}]*[^{_CONTROL}\\s][^{_CONTROL}]*$"


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def described(schema: Schema, description: str) -> Schema:
    """Return the schema with a description, which replaces its own."""
    return {**schema, "description": description}


def count(description: str) -> Schema:
    return described(COUNT, description)


def unsure_count(description: str) -> Schema:
    """Return the schema of a count that only Redis knows."""
    return described(UNSURE_COUNT, f"{description}; null: Redis is unavailable")


def shape(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), closed: bool = True) -> Schema:
    """Return the schema of an object. `closed`: other members are not allowed.

    A property without a description of its own gets that of FIELDS.
    """
    properties = {name: meaning(name, schema) for name, schema in properties.items()}
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": not closed}
    return {**schema, "required": required} if required else schema


def meaning(name: str, schema: Schema) -> Schema:
    """Return the schema of a field with a description: its own, that of the schema in it, or the one in FIELDS."""
    inner = schema["anyOf"][0] if "anyOf" in schema else schema
    own = schema.get("description") or inner.get("description")
    # That of INSTANT says how a time is written, not which one it is.
    if own is None or (own == INSTANT["description"] and name in FIELDS):
        own = FIELDS.get(name)
    return schema if own is None else described(schema, own)


def absent_or_null(properties: dict[str, Schema]) -> dict[str, Schema]:
    return {name: nullable(schema) for name, schema in properties.items()}


def page(item: str) -> Schema:
    return shape(
        {
            "items": {"type": "array", "items": ref(item)},
            "next_cursor": {
                "type": ["string", "null"],
                "description": "Pass as `cursor` to get the next page; null: this is the last page",
            },
        }
    )


def whole(least: int, most: int, description: str) -> Schema:
    return {"type": ["integer", "null"], "minimum": least, "maximum": most, "description": description}


UUID: Final[Schema] = {
    "type": "string",
    "format": "uuid",
    "pattern": UUID_PATTERN,
    "examples": ["7a4f8e5c-1d7b-4f0e-9b1e-2f6c3d5a9e10"],
}
GIVEN_ID: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_READ,
    "pattern": f"[^{_CONTROL}\\s]",
    "description": "A UUID (with or without hyphens, in braces, as a URN), or a text of the caller's own: at most "
    f"{MAX_ID} characters, none of them a control character or invisible; white space at its ends is ignored",
    "examples": ["anna@example.org", "1b4e28ba-2fa1-41d2-883f-0016d3cca427"],
}
"""The id of a client or customer in a request."""
CUSTOMER_TEXT: Final[Schema] = {
    "type": ["string", "null"],
    "description": "The text that was given as the id of the customer; null: it was a UUID, or is erased",
}
INSTANT: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "description": f"A time with an offset, within {BOUNDS}; rounded up to a whole millisecond",
    "examples": ["2026-06-01T00:00:00+02:00"],
}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
UNSURE_COUNT: Final[Schema] = {"type": ["integer", "null"], "minimum": 0}
_RATE: Final[Schema] = {"type": ["number", "null"], "minimum": 0}
RATES: Final[dict[str, Schema]] = {
    "rate_per_s_1m": described(_RATE, "Issued a second over the last minute; null: nothing for a day, or not known"),
    "rate_per_s_15m": described(_RATE, "The same over the last 15 minutes"),
    "empty_at": described(
        nullable(INSTANT), "When none will be left, as it looks now; null: not within a year, or not known"
    ),
}
"""The fields of every stock that say how fast it empties."""
NAME: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_NAME,
    "pattern": NAME_PATTERN,
    "examples": ["Summer tour"],
}
BATCH: Final[Schema] = {**NAME, "description": "Name or id of a batch"}
CLIENT: Final[Schema] = {**GIVEN_ID, "description": "The text of a client, or its UUID", "examples": ["band-42"]}
CLIENT_NAME: Final[Schema] = {"type": ["string", "null"], "description": "Name of the client; null: not registered"}
ATTRIBUTES: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "Columns of the file that were kept with the code; absent if it has none",
    "examples": [{"pin": "4711", "seat": "12 A"}],
}
CODE: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 255, "examples": ["SUMMER-0001"]}
