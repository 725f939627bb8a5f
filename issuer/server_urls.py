"""URLs of servers, checked before a driver reads them: an error of a driver would quote a part of the password.

A `/` in a password, say, ends the part of the URL with the password, and drivers report the rest of it as a port that
is no number. Messages here never contain a part of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_ENCODE: Final = (
    "cannot be read: characters such as / ? # [ ] % and spaces in a user name or password are written in"
    " percent-encoding (/ is %2F)"
)
_AUTHORITY: Final = re.compile(r"[^/?#]*")
# Brackets and characters beyond ASCII: Python's parser quotes what surrounds them in its errors.
_CREDENTIALS: Final = re.compile(r"[!-Z^-~]*")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]@]*)(?::([0-9]{1,5}))?")


def check_server_url(url: str, schemes: Collection[str]) -> None:
    """Raise ValueError, with a message for a person, unless this is a URL of one of the schemes."""
    scheme, separator, rest = url.partition("://")
    if scheme not in schemes or not separator:
        raise ValueError(f"must start with {', '.join(f'{name}://' for name in schemes)}")
    found = _AUTHORITY.match(rest)
    assert found is not None
    credentials, at, hosts = found[0].rpartition("@")
    behind = rest[found.end() :]
    if (
        "@" in behind
        or "#" in behind
        or not rest.isprintable()
        or " " in rest
        or not _CREDENTIALS.fullmatch(credentials)
    ):
        raise ValueError(_ENCODE)
    for host in hosts.split(","):
        place = _HOST.fullmatch(host)
        if place is None:
            raise ValueError(_ENCODE if at or ":" in host else "has a host that is not valid")
        if place[1] is not None and int(place[1]) > 65_535:
            raise ValueError("has a port over 65535")
