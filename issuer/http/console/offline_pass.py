"""Offline passes: while Postgres is unavailable, who was signed in a moment ago still sees what happens.

A pass is a cookie beside that of the session. It states who was signed in when a page was last shown, until an hour
later, and is signed together with the token of the session, so it opens nothing without it. It is read where a page
asks for it and Postgres does not answer, and it admits to reading only: a revocation that cannot be read holds from the
return of Postgres on. The key follows from ISSUER_SECRET_KEY, which all processes have without Postgres; without that
setting each process has a random one and knows its own passes only.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as EncodingError
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import orjson

from issuer.http.console.principal import Principal
from issuer.http.services import Services
from issuer.operators.role import Role

LIFETIME_S: Final = 3_600
COOKIE: Final = "console-pass"
_PURPOSE: Final = b"issuer console pass"
_MAX_LENGTH: Final = 4_096
_OWN_KEY: Final = secrets.token_bytes(32)


def sign_pass(services: Services, token: str, principal: Principal) -> str:
    """Return the pass of who is signed in with the session of `token`."""
    fields = {
        "name": principal.name,
        "actor": principal.actor,
        "role": str(principal.role),
        "client_id": principal.client_id,
        "client_name": principal.client_name,
        "key_id": None if principal.key is None else principal.key.id,
        "until": int(time.time()) + LIFETIME_S,
    }
    body = urlsafe_b64encode(orjson.dumps(fields)).decode()
    return f"{body}.{_mac(console_keys(services)[0], token, body)}"


def read_pass(services: Services, token: str, given: str) -> Principal | None:
    """Return who a pass admits beside the session of `token`; None: it is forged, of another session, or too old."""
    body, _, mac = given.partition(".")
    if len(given) > _MAX_LENGTH or not given.isascii():
        return None
    if not any(hmac.compare_digest(mac, _mac(key, token, body)) for key in console_keys(services)):
        return None
    try:
        fields: dict[str, Any] = orjson.loads(urlsafe_b64decode(body))
    except (EncodingError, orjson.JSONDecodeError):
        return None
    key_id = fields["key_id"]
    # The keys are in memory: one whose revocation has arrived opens nothing any more.
    if fields["until"] <= time.time() or (key_id is not None and services.keys.get(key_id) is None):
        return None
    client_id = fields["client_id"]
    return Principal(
        fields["name"], fields["actor"], Role(fields["role"]), None if client_id is None else UUID(client_id),
        fields["client_name"], None if key_id is None else services.keys.get(key_id),
    )  # fmt: skip


def console_keys(services: Services) -> Sequence[bytes]:
    """Return the keys of what the console has browsers keep: the first signs, all of them are recognised."""
    secret_key = services.settings.secret_key
    return _keys(None if secret_key is None else secret_key.get_secret_value())


@cache
def _keys(setting: str | None) -> Sequence[bytes]:
    if setting is None:
        return (_OWN_KEY,)
    return tuple(hmac.new(key.encode(), _PURPOSE, sha256).digest() for key in setting.split(","))


def _mac(key: bytes, token: str, body: str) -> str:
    return hmac.new(key, f"{token}.{body}".encode(), sha256).hexdigest()
