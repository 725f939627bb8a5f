"""The header fields of a request by name. Credentials and Idempotency-Key are read from them on every path.

Names are in lower case. Values are the bytes that arrived: nothing is decoded, so a value that is not UTF-8, or that
has a no-break space at an end, is compared as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

Headers = Sequence[tuple[bytes, bytes]]
HeaderFields = dict[bytes, bytes]

REPEATED: Final = b"\n"
"""Stands for the values of a field that the request has more than once. No field value contains a line feed."""


def header_fields(headers: Headers) -> HeaderFields:
    """Return the fields by name; a field that is given more than once has the value REPEATED."""
    fields = dict(headers)
    if len(fields) != len(headers):
        counts = Counter(name for name, _ in headers)
        fields.update((name, REPEATED) for name, count in counts.items() if count > 1)
    return fields


def scope_fields(scope: MutableMapping[str, Any]) -> HeaderFields:
    """Return the fields of a request by its ASGI scope, which keeps them: several steps of a request need them."""
    fields: HeaderFields | None = scope.get("header_fields")
    if fields is None:
        fields = scope["header_fields"] = header_fields(scope["headers"])
    return fields
