"""Random tokens of browsers and links. Only their hashes are stored."""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256
from typing import Final

_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")
"""32 bytes in base64url, without padding."""


def new_token() -> str:
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes | None:
    """Return the hash of a token, with which it is found; None: it has not the form of one."""
    return None if _FORM.fullmatch(token) is None else sha256(token.encode()).digest()


def form_token(token: str) -> str:
    """Return the token that the forms of a browser with this `token` carry.

    It follows from a cookie that no script and no other site can read, so it needs no storage, and it changes with
    every login.
    """
    return hmac.new(token.encode(), b"form", sha256).hexdigest()


def is_form_token(given: str, token: str) -> bool:
    """Return whether `given` is the form token of `token`, in constant time."""
    return hmac.compare_digest(given.encode(), form_token(token).encode())
