"""Differences that are known and not yet removed from the program. Each one is masked in both answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

Headers = tuple[tuple[bytes, bytes], ...]
Comparable = tuple[int, bytes, Headers, bytes]


def header_order(answer: Comparable) -> Comparable:
    """The two paths write the headers of an answer in different orders."""
    status, reason, headers, body = answer
    return status, reason, tuple(sorted(headers)), body


def library_headers(answer: Comparable) -> Comparable:
    """The Connect library adds Vary and Content-Encoding, and sends answers in chunks."""
    status, reason, headers, body = answer
    names = (b"vary", b"content-encoding", b"transfer-encoding", b"content-length")
    return status, reason, tuple(header for header in headers if header[0] not in names), body


def json_spacing(answer: Comparable) -> Comparable:
    """The Connect library writes spaces into the JSON of a failure."""
    status, reason, headers, body = answer
    if body.startswith(b'{"code": '):
        body = orjson.dumps(orjson.loads(body))
    return status, reason, headers, body


ALLOWANCES: Final[tuple[Callable[[Comparable], Comparable], ...]] = ()
