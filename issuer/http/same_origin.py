"""Requests that a page of another origin makes a browser send, with the credentials that it keeps for this server."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from issuer.http.problems.problem import ProblemError

CROSS_SITE: Final = ProblemError(403, "the form was sent by another site", "cross_site")


def check_origin(request: Request) -> None:
    """Raise ProblemError (403) for a request that a page of another origin sent.

    Browsers say so in Sec-Fetch-Site or, older ones, in Origin. A request with neither is no browser's, or that of a
    very old one.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site != "same-origin":
            raise CROSS_SITE
        return
    origin = request.headers.get("origin")
    # Host and port: a proxy that ends TLS changes the scheme.
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise CROSS_SITE
