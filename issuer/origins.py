"""Web origins: the sites whose pages may call the API from a browser (RFC 6454)."""

from __future__ import annotations

import re
from typing import Final

_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def parse_origins(text: str) -> frozenset[str]:
    """Parse comma-separated origins, as browsers send them. An empty text is none. Raises ValueError."""
    origins = set()
    for item in filter(None, (part.strip().lower() for part in text.split(","))):
        found = _ORIGIN.fullmatch(item.removesuffix("/"))
        if found is None:
            raise ValueError(
                f"{item!r} is no origin: list each as https://shop.example or http://localhost:3000, without a path; "
                "`*` is not possible"
            )
        scheme, host, port = found.groups()
        origins.add(f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}")
    return frozenset(origins)
