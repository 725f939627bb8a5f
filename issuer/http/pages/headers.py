"""The headers of an HTML page: it runs its own script and style, asks its own origin only, and is shown in no frame."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final

SELF: Final = "'self'"


def page_headers(*, style: str, script: str, more: str = "") -> dict[str, str]:
    """Return the headers of a page. `style`, `script`: CSP source expressions; `more`: further directives."""
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; {more}"
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"content-security-policy": policy, "referrer-policy": "no-referrer"}


def hash_source(content: str) -> str:
    """Return the CSP source expression for the content of a `<style>` or `<script>`."""
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
