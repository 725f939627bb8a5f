"""An endpoint to which one shop sends its orders, and the checks of its values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from issuer.access.secrets import SecretPlace
from issuer.instants import show_instant
from issuer.loyalty.bounds import MAX_SOURCE
from issuer.loyalty.hooks.events import ShopKind
from issuer.names import name_problem

MAX_URL: Final = 2_000
PREVIOUS_HOURS: Final = 24
"""How long the secret before a rotation stays valid: shops sign with it for a while, and repeat what failed."""


class HookNotFoundError(LookupError):
    """There is no such endpoint, or the caller may not see it."""

    def __init__(self) -> None:
        super().__init__("no hook found")


class HookExistsError(Exception):
    """The program has an endpoint for this source."""

    def __init__(self, source: str) -> None:
        super().__init__(f"the program has a hook with the source {source}: revoke it, or choose another source")


class InvalidHookError(ValueError):
    """A value of an endpoint is not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class HookEndpoint:
    """An endpoint. `source`: of its orders, such as `shopify`; `keeps_unknown`: whether orders wait for members."""

    id: UUID
    client_id: UUID
    program_id: UUID
    kind: ShopKind
    source: str
    notification_url: str | None
    keeps_unknown: bool
    created_at: datetime
    previous_until: datetime | None
    revoked_at: datetime | None

    @property
    def path(self) -> str:
        """The path to which the shop sends."""
        return path_of(self.id)

    @property
    def secret(self) -> SecretPlace:
        return SecretPlace(f"hook:{self.id}", "secret")

    @property
    def previous_secret(self) -> SecretPlace:
        return SecretPlace(f"hook:{self.id}", "previous")

    def to_json(self) -> dict[str, Any]:
        """Return the endpoint as the API and the command line show it, without its secrets."""
        shown = {name: getattr(self, name) for name in ("created_at", "previous_until", "revoked_at")}
        return {
            "id": str(self.id),
            "program_id": str(self.program_id),
            "kind": str(self.kind),
            "source": self.source,
            "path": self.path,
            "notification_url": self.notification_url,
            "keeps_unknown": self.keeps_unknown,
            **{name: None if at is None else show_instant(at) for name, at in shown.items()},
        }


def path_of(endpoint_id: UUID) -> str:
    """Return the path to which a shop sends."""
    return f"/hooks/{endpoint_id}"


def parse_kind(text: str) -> ShopKind:
    """Raises InvalidHookError."""
    try:
        return ShopKind(text)
    except ValueError as error:
        raise InvalidHookError(f"kind must be one of {', '.join(ShopKind)}") from error


def parse_source(text: str) -> str:
    """Return the name of a source of orders. Raises InvalidHookError."""
    if name_problem(text) is not None or text != text.strip() or len(text) > MAX_SOURCE:
        raise InvalidHookError(f"source must be a name of at most {MAX_SOURCE} characters, such as shopify")
    return text


def parse_notification_url(kind: ShopKind, text: str | None, path: str) -> str | None:
    """Return the URL that is configured at Square, byte for byte. Raises InvalidHookError.

    `path`: of the endpoint, which a URL without a path gets: it is not known before the endpoint exists.
    """
    if kind is not ShopKind.SQUARE:
        if text is not None:
            raise InvalidHookError("notification_url is for hooks of the kind square only")
        return None
    if text is None or len(text) > MAX_URL or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidHookError("notification_url is needed: https:// and your address, or the URL as it is at Square")
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise InvalidHookError("notification_url must begin with https://")
    return f"{parts.scheme}://{parts.netloc}{path}" if parts.path in ("", "/") and not parts.query else text
