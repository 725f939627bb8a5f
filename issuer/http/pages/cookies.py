"""Cookies of pages: readable by no script, sent to this host alone, and over TLS.

Their names begin with `__Host-`, with which a browser accepts them over TLS only, from this host and not from a
neighbour of the same domain. The exception is plain HTTP to a loopback address, which is how pages are developed.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

PREFIX: Final = "__Host-"
SameSite = Literal["lax", "strict"]


def is_plain(request: Request) -> bool:
    """Return whether a request came over plain HTTP to a loopback address. The browser chooses both by its URL."""
    if request.url.scheme != "http" or request.headers.get("x-forwarded-proto", "http") != "http":
        return False
    host = request.url.hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_cookie(request: Request, name: str) -> str | None:
    """Return the value of a cookie that `set_cookie` set; None: there is none."""
    return request.cookies.get(_spelled(request, name))


def set_cookie(
    request: Request, response: Response, name: str, value: str, *, max_age_s: int, same_site: SameSite = "lax"
) -> None:
    """Set a cookie on the response to a request."""
    response.set_cookie(
        _spelled(request, name), value, max_age=max_age_s, path="/", secure=not is_plain(request), httponly=True,
        samesite=same_site,
    )  # fmt: skip


def delete_cookie(request: Request, response: Response, name: str) -> None:
    """Delete a cookie."""
    response.delete_cookie(_spelled(request, name), path="/", secure=not is_plain(request), httponly=True)


def _spelled(request: Request, name: str) -> str:
    return name if is_plain(request) else PREFIX + name
