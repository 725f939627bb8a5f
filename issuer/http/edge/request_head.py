"""What RFC 9112 asks of a request head and the parser does not check: protocol, version, target and transfer coding.

Requests of the fast path have no need of it: they fulfil all of this by its own conditions.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from issuer.http.edge.header_fields import Headers
from issuer.http.edge.limits import BAD_TARGET, MALFORMED, NOT_IMPLEMENTED, VERSION_NOT_SUPPORTED

# Origin form, or absolute form without user information. A fragment is never sent (RFC 9112, section 3.2), and a
# backslash is no character of a URI: some proxies read it as a slash.
_TARGET: Final = re.compile(rb"(?:https?://[^/?#@\\]+(?=/)|(?=/))[^?#\\]*(?:\?[^#]*)?", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


@lru_cache(maxsize=1_024)
def is_host(value: bytes) -> bool:
    """Return whether this is a valid value of a Host header. It may be empty (RFC 9112, section 3.2)."""
    return _HOST.fullmatch(value) is not None


def head_size(url: bytes, headers: Headers) -> int:
    """Return the size of a head in bytes, without method and version."""
    return len(url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in headers)


def has_request_line(received: bytes, method: bytes, url: bytes, *, is_first: bool) -> bool:
    """Return whether the request line names HTTP. The parser also takes RTSP, and a request line that ends early.

    `received` holds the request line; with `is_first` it begins with it. Otherwise its place is unknown, behind another
    request, and one that may be RTSP is not taken.
    """
    line = b"%b %b " % (method, url)
    if is_first:
        return received.lstrip(b"\r\n").startswith(line + b"HTTP/")
    return line + b"HTTP/" in received and line + b"RTSP/" not in received


def head_refusal(method: bytes, version: str, url: bytes, headers: Headers) -> bytes | None:
    """Return the refusal of a request with this head; None: there is no reason for one."""
    if version not in ("1.0", "1.1"):
        return VERSION_NOT_SUPPORTED
    if method == b"CONNECT":
        return NOT_IMPLEMENTED
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        # A proxy that forwarded it may have read its length in another way (RFC 9112, section 6.1).
        if version == "1.0":
            return MALFORMED
        if len(codings) > 1 or codings[0].strip(b" \t").lower() != b"chunked":
            return NOT_IMPLEMENTED
    if _TARGET.fullmatch(url) is None and (method, url) != (b"OPTIONS", b"*"):
        return BAD_TARGET
    return None
