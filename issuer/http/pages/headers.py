"""The headers of an HTML page: it runs its own script and style, asks its own origin only, and is shown in no frame."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final

SELF: Final = "'self'"


def page_headers(*, style: str, script: str, more: str = "", forms: bool = False) -> dict[str, str]:
    """Return the headers of a page. `style`, `script`: CSP source expressions; `more`: further directives.

    `forms`: the page has forms, which its own origin receives. Such a page sends its own origin a Referer and, with it,
    a true Origin: with no-referrer the Origin of a form is `null`, which proves nothing. Other origins get neither.
    """
    form_action, referrer = (SELF, "same-origin") if forms else ("'none'", "no-referrer")
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; {more}"
        f"base-uri 'none'; form-action {form_action}; frame-ancestors 'none'"
    )
    return {"content-security-policy": policy, "referrer-policy": referrer}


def hash_source(content: str) -> str:
    """Return the CSP source expression for the content of a `<style>` or `<script>`."""
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
