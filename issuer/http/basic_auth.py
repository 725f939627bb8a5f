"""Basic credentials (RFC 7617) whose password is an API key: on the routes of a predecessor whose clients send them.

A browser keeps Basic credentials and adds them to requests of any page, so an operation that takes them and changes
something also refuses requests of other sites (`issuer.http.same_origin`).
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Final

from issuer.http.edge.header_fields import Headers
from issuer.http.problems.problem import ProblemError
from issuer.http.wire import prebuilt

BASIC_NEEDED: Final = prebuilt(
    ProblemError(
        401,
        "missing or unknown api key",
        "unauthorized",
        detail="send Basic credentials: any user name, and a valid API key as the password",
        headers={"WWW-Authenticate": 'Basic realm="Admin"'},
    )
)
"""The 401 of these routes. The realm is the predecessor's: browsers keep what they have stored for it."""


def as_bearer(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers with the password of Basic credentials as a bearer token; other credentials stay."""
    return [(name, _bearer(value) if name == b"authorization" else value) for name, value in headers]


def _bearer(value: bytes) -> bytes:
    scheme, _, credentials = value.partition(b" ")
    if scheme.lower() != b"basic":
        return value
    try:
        _, colon, password = b64decode(credentials.strip(b" \t"), validate=True).partition(b":")
    except binascii.Error:
        return value
    return b"Bearer " + password if colon else value
