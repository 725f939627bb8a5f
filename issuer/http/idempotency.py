"""The header Idempotency-Key of a request: one implementation for every route that takes it."""

from __future__ import annotations

import re
from typing import Final

from issuer.http.edge.header_fields import HeaderFields
from issuer.http.problems.problem import invalid

_FORM: Final = re.compile(rb"[\x20-\x7e]{1,255}")
BAD_KEY: Final = invalid(
    "Idempotency-Key must be 1 to 255 printable ASCII characters, given once", "invalid_idempotency_key"
)


def read_idempotency_key(fields: HeaderFields) -> str | None:
    """Return the key of a request; None: it has none. Raises ProblemError, also for a key that is given twice."""
    key = fields.get(b"idempotency-key")
    if key is None:
        return None
    # REPEATED is not printable.
    if _FORM.fullmatch(key) is None:
        raise BAD_KEY
    return key.decode("ascii")
