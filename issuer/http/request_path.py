"""The path of a request, as routes compare it.

A path is compared as it was sent. Only a code or an id in it is decoded, after the route is found: `%2F` is part of a
segment and no separator (RFC 3986, section 2.2), so the rules of a proxy and the routes read the same segments.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from starlette.convertors import Convertor, register_url_convertor

from issuer.http.problems.problem import invalid
from issuer.names import has_dot_segment

_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class IdConvertor(Convertor[str]):
    """An id in a path that may be a text of the caller's own. Slashes in it are encoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        try:
            return unquote(value, errors="strict")
        except UnicodeDecodeError as error:
            raise invalid("the path is not UTF-8") from error

    def to_string(self, value: str) -> str:
        raise NotImplementedError


class CodeConvertor(IdConvertor):
    """A code in a path. It may contain any character; slashes may be encoded or not."""

    regex = ".*"


register_url_convertor("id", IdConvertor())
register_url_convertor("code", CodeConvertor())


def with_and_without_slash(path: str) -> tuple[str, str]:
    """Return a path of a predecessor's route as it is and with its other end: a slash there makes no difference."""
    return path, path[:-1] if path.endswith("/") else path + "/"


def routed_path(raw: bytes) -> str:
    """Return the path that routes compare. Raises ProblemError for one that a proxy could read in another way."""
    path = raw.decode("latin-1")
    if "%" in path or "/." in path:
        if _BROKEN_ESCAPE.search(path) is not None:
            raise invalid("the path has a percent sign that encodes nothing")
        if has_dot_segment(unquote(path, "latin-1")):
            raise invalid("the path has . or .. as a segment")
    return path
