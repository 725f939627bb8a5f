"""Bounds on what a client may send and how long it may take, and the answers to a client that exceeds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from issuer.http.problems.problem import MEDIA_TYPE, problem_body
from issuer.http.wire import EVERY_ANSWER
from issuer.settings import Settings

UPLOAD_PATH: Final = "/api/v1/codes/upload"
CONSOLE_UPLOADS: Final = re.compile("/console/batches/(?:new|[^/]+/codes)")
"""The pages of the console whose forms have a file of codes."""
DELIVERY_PATH: Final = "/hooks/"
"""What the paths of deliveries of shops begin with."""
MAX_DELIVERY_BYTES: Final = 1_048_576

MIN_BODY_RATE: Final = 16_384
"""Bytes per second at which a body must arrive on average, after the first `receive_timeout_s`."""
LINGER_S: Final = 2.0
"""After a refusal the connection reads and discards what the client still sends, for this long. Closing it at once
would reset it, and the client might never receive the answer."""
MAX_PIPELINED: Final = 64
MAX_FIELDS: Final = 128
"""Header fields of one request."""


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Bounds of one API process. Sizes in bytes. `max_head_bytes` also bounds the trailers of a chunked request."""

    max_head_bytes: int = 16_384
    max_body_bytes: int = 65_536
    max_body_bytes_by_path: Mapping[str, int] = field(default_factory=dict)
    receive_timeout_s: float = 10.0
    body_timeout_s: float = 1_800.0
    max_connections: int = 20_000
    write_timeout_s: float = 30.0

    @classmethod
    def from_settings(cls, settings: Settings) -> EdgeLimits:
        return cls(
            max_head_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_body_bytes,
            max_body_bytes_by_path=dict.fromkeys((UPLOAD_PATH, UPLOAD_PATH + "/"), settings.max_upload_bytes),
            receive_timeout_s=settings.receive_timeout_s,
            body_timeout_s=settings.upload_timeout_s,
            max_connections=settings.max_connections,
        )

    def body_due_s(self, announced_bytes: int, received_bytes: int) -> float:
        """Return the time by which more of a body must have arrived.

        A body that is announced must arrive at the rate at which it is complete in time: one that cannot be is refused
        early, not after `body_timeout_s`.
        """
        rate = max(MIN_BODY_RATE, announced_bytes / self.body_timeout_s)
        return self.receive_timeout_s + min(received_bytes / rate, self.body_timeout_s)

    def max_body_bytes_of(self, url: bytes) -> int:
        """Return the largest body that the path of this request target takes."""
        path = url.partition(b"?")[0].decode("ascii", "replace")
        if path.startswith(DELIVERY_PATH):
            return max(self.max_body_bytes, MAX_DELIVERY_BYTES)
        path = UPLOAD_PATH if CONSOLE_UPLOADS.fullmatch(path) else path
        return self.max_body_bytes_by_path.get(path, self.max_body_bytes)


def _refusal(status: int, error: str, code: str) -> bytes:
    body = problem_body(status, error, code)
    headers = (
        *EVERY_ANSWER,
        ("content-type", MEDIA_TYPE),
        ("content-length", str(len(body))),
        *([("retry-after", "10")] if status in (429, 503) else []),
        ("connection", "close"),
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return b"%b%b\r\n%b" % (STATUS_LINE[status], lines.encode(), body)


MALFORMED: Final = _refusal(400, "malformed request", "malformed_request")
NO_HOST: Final = _refusal(400, "exactly one valid Host header is needed", "malformed_request")
BAD_TARGET: Final = _refusal(400, "the request target is not valid", "malformed_request")
TIMED_OUT: Final = _refusal(408, "request timeout", "request_timeout")
BODY_TOO_LARGE: Final = _refusal(413, "body too large", "body_too_large")
HEAD_TOO_LARGE: Final = _refusal(431, "request head too large", "head_too_large")
TRAILERS_TOO_LARGE: Final = _refusal(431, "request trailers too large", "head_too_large")
NOT_IMPLEMENTED: Final = _refusal(501, "method or transfer coding not implemented", "not_implemented")
VERSION_NOT_SUPPORTED: Final = _refusal(505, "HTTP version not supported", "version_not_supported")
TOO_MANY_CONNECTIONS: Final = _refusal(503, "too many connections", "too_many_connections")
TOO_MANY_OF_ADDRESS: Final = _refusal(429, "too many connections of one address", "too_many_connections")
