"""Signatures of deliveries. All are compared in constant time, and over the bytes of the body as they arrived."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from standardwebhooks import Webhook, WebhookVerificationError

from issuer.loyalty.hooks.events import ShopKind

SIGNATURE_HEADERS: Final = {
    ShopKind.SHOPIFY: "x-shopify-hmac-sha256",
    ShopKind.WOOCOMMERCE: "x-wc-webhook-signature",
    ShopKind.SQUARE: "x-square-hmacsha256-signature",
    ShopKind.STANDARD: "webhook-signature",
}
STANDARD_PREFIX: Final = "whsec_"
STANDARD_BYTES: Final = range(24, 65)
"""Lengths that the specification of Standard Webhooks allows for a secret."""


class SignatureError(Exception):
    """The delivery is not signed with a secret of the endpoint. The message says what is wrong, and no secret."""


class ShopSecretError(ValueError):
    """The text cannot be the secret of an endpoint; the message says why."""


def new_secret(kind: ShopKind) -> str:
    """Return a random secret. A shop that chooses the secret itself gets its own in place of this one."""
    if kind is ShopKind.STANDARD:
        return STANDARD_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(32)


def check_secret(kind: ShopKind, secret: str) -> None:
    """Raise ShopSecretError for a text with which no delivery could be verified."""
    if not secret.isprintable() or not secret.isascii() or secret != secret.strip() or not 8 <= len(secret) <= 255:
        raise ShopSecretError("secret must have 8 to 255 printable ASCII characters, and no space at its ends")
    if kind is not ShopKind.STANDARD:
        return
    try:
        size = len(base64.b64decode(secret.removeprefix(STANDARD_PREFIX) + "==", validate=False))
    except binascii.Error:
        size = 0
    if not secret.startswith(STANDARD_PREFIX) or size not in STANDARD_BYTES:
        raise ShopSecretError("secret must be whsec_ and 24 to 64 bytes in base64; without a secret one is drawn")


def verify(
    kind: ShopKind, valid_secrets: Sequence[str], headers: Mapping[str, str], raw: bytes, notification_url: str = ""
) -> None:
    """Return if one of the secrets signed the delivery. Raises SignatureError.

    `headers`: by name in lower case. `notification_url`: as configured at Square, which signs it with the body.
    """
    header = SIGNATURE_HEADERS[kind]
    signature = headers.get(header)
    if not signature:
        raise SignatureError(f"the header {header} is missing")
    if kind is ShopKind.STANDARD:
        _verify_standard(valid_secrets, headers, raw)
        return
    signed = notification_url.encode() + raw if kind is ShopKind.SQUARE else raw
    given = signature.encode("latin-1", "replace")
    # Every secret is tried, so that the time does not say which one is in use.
    matches = [hmac.compare_digest(given, _signature(secret, signed)) for secret in valid_secrets]
    if not any(matches):
        signed_by = "secret and notification URL" if kind is ShopKind.SQUARE else "secret"
        raise SignatureError(f"the header {header} does not fit the body and the {signed_by} of this hook")


def _signature(secret: str, signed: bytes) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256))


def _verify_standard(valid_secrets: Sequence[str], headers: Mapping[str, str], raw: bytes) -> None:
    fault = "no secret is valid"
    for secret in valid_secrets:
        try:
            Webhook(secret).verify(raw, dict(headers), json_parse=False)
        except WebhookVerificationError as error:
            fault = str(error)
        except ValueError:
            # Of the library: a body that is not UTF-8, or a signature that is neither a list nor base64.
            fault = "the signature or the body is malformed"
        else:
            return
    raise SignatureError(f"webhook-id, webhook-timestamp and webhook-signature do not fit: {fault}")
