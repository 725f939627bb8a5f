"""Deliveries of shops: the samples in tests/data/hooks, signed by implementations that are not the project's.

Each sample is built field by field from a page of the shop's documentation, which it names with the day on which the
page was read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from standardwebhooks import Webhook

from issuer.loyalty.hooks.events import ShopKind

SAMPLES: Final = Path(__file__).parents[1] / "data" / "hooks"
NOTIFICATION_URL: Final = "https://loyalty.example.com/hooks/square"
SECRETS: Final = {
    ShopKind.SHOPIFY: "shpss_0123456789abcdef0123456789abcdef",
    ShopKind.WOOCOMMERCE: "a secret of WooCommerce",
    ShopKind.SQUARE: "signature-key-of-square",
    ShopKind.STANDARD: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
EMAILS: Final = {
    ShopKind.SHOPIFY: "Bob.Norman@mail.example.com",
    ShopKind.WOOCOMMERCE: "john.doe@example.com",
    ShopKind.SQUARE: "buyer@example.com",
    ShopKind.STANDARD: "buyer@example.com",
}
"""The customers of the samples."""


@dataclass(frozen=True)
class ShopDelivery:
    """A delivery, not signed yet."""

    kind: ShopKind
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        return json.dumps(self.body, separators=(",", ":")).encode()

    def changed(self, **values: Any) -> ShopDelivery:
        """Return the delivery with other members at the top of its body."""
        return replace(self, body={**self.body, **values})

    def with_headers(self, **headers: str) -> ShopDelivery:
        return replace(self, headers={**self.headers, **{name.replace("_", "-"): one for name, one in headers.items()}})

    def signed(
        self, secret: str | None = None, *, url: str = NOTIFICATION_URL, at: datetime | None = None
    ) -> dict[str, str]:
        """Return the headers with the signature; `at`: the timestamp of Standard Webhooks."""
        return {**self.headers, **signature(self, secret or SECRETS[self.kind], url, at or datetime.now(UTC))}


def signature(delivery: ShopDelivery, secret: str, url: str, at: datetime) -> dict[str, str]:
    raw = delivery.raw
    if delivery.kind is ShopKind.STANDARD:
        signed = Webhook(secret).sign(delivery.headers["webhook-id"], at, raw.decode())
        return {"webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signed}
    if delivery.kind is ShopKind.SQUARE:
        return {"x-square-hmacsha256-signature": _hmac(secret, url.encode() + raw)}
    name = "X-Shopify-Hmac-SHA256" if delivery.kind is ShopKind.SHOPIFY else "X-WC-Webhook-Signature"
    return {name: _hmac(secret, raw)}


def _hmac(secret: str, signed: bytes) -> str:
    code = HMAC(secret.encode(), SHA256())
    code.update(signed)
    return base64.b64encode(code.finalize()).decode()


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def sample(kind: ShopKind, name: str) -> ShopDelivery:
    found = samples(kind)[name]
    return ShopDelivery(kind, found["body"], found["headers"])


def again(delivery: ShopDelivery) -> ShopDelivery:
    """Return the delivery as its shop repeats it: some shops give each delivery an id of its own."""
    if delivery.kind is ShopKind.SHOPIFY:
        return delivery.with_headers(**{"X-Shopify-Webhook-Id": str(uuid4())})
    if delivery.kind is ShopKind.WOOCOMMERCE:
        return delivery.with_headers(**{"X-WC-Webhook-Delivery-ID": uuid4().hex})
    return delivery


@cache
def samples(kind: ShopKind) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = json.loads((SAMPLES / f"{kind}.json").read_text())
    return loaded
