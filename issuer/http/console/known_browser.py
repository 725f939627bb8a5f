"""Known browsers: an operator who signed in with a browser is not locked out of it by the wrong passwords of others.

A cookie states which operator has signed in, with a MAC whose key follows from ISSUER_SECRET_KEY; without that setting
a process knows its own cookies only. It opens nothing: the password is checked as ever, only a lock is passed over.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from issuer.http.console.offline_pass import console_keys
from issuer.http.pages.cookies import read_cookie, set_cookie
from issuer.http.services import Services
from issuer.ids import parse_uuid

COOKIE: Final = "console-known"
LIFETIME_S: Final = 180 * 86_400


def known_operator(services: Services, request: Request) -> UUID | None:
    """Return the operator who signed in with this browser before; None: no one, or it is forged."""
    text, _, mac = (read_cookie(request, COOKIE) or "").partition(".")
    operator_id = parse_uuid(text)
    if operator_id is None or not mac.isascii():
        return None
    known = any(hmac.compare_digest(mac, _mac(key, operator_id)) for key in console_keys(services))
    return operator_id if known else None


def know_browser(services: Services, request: Request, response: Response, operator_id: UUID) -> None:
    """Have the browser of an operator known from now on."""
    value = f"{operator_id}.{_mac(console_keys(services)[0], operator_id)}"
    set_cookie(request, response, COOKIE, value, max_age_s=LIFETIME_S, same_site="strict")


def _mac(key: bytes, operator_id: UUID) -> str:
    return hmac.new(key, b"known browser " + operator_id.bytes, sha256).hexdigest()
