"""Requests that a page of another site sends from a browser (CORS, fetch.spec.whatwg.org). One implementation for all
paths, off by default.

Only the routes that keys of the scope `public` may call admit them, and only with such a key or none: any other key
must not be in a page, so its answers cannot be read there. There are no cookies, and credentials are never admitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from starlette.types import Message, Scope, Send

from issuer.access.api_keys import ApiKey
from issuer.access.api_keys import Scope as KeyScope
from issuer.http.auth import find_key
from issuer.http.edge.header_fields import HeaderFields, header_fields
from issuer.http.problems.problem import ProblemError
from issuer.http.services import Services
from issuer.http.wire import Head, Wire
from issuer.origins import parse_origins
from issuer.settings import Settings

ROUTES: Final = re.compile(
    r"/coupon/consume/?|/coupon\.CouponService/(?:IssueCoupon|GetCampaign)/?|/api/v1/campaigns/[^/]+/events"
)
"""Paths of the routes that keys of the scope `public` may call."""
_ID: Final = re.compile("(?<=/campaigns)/[^/]+/")
ORIGIN_REFUSED: Final = ProblemError(
    403,
    "this origin may not call the API from a browser",
    "origin_refused",
    detail="ISSUER_CORS_ORIGINS lists the origins that may",
    headers={"Vary": "Origin"},
)
_VARY: Final = ((b"vary", b"Origin"),)
_EXPOSED: Final = b"Idempotency-Replayed, RateLimit, RateLimit-Policy, Retry-After"
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b"Authorization, Connect-Protocol-Version, Connect-Timeout-Ms, Content-Type, Idempotency-Key",
    ),
    (b"access-control-max-age", b"7200"),
)
HeaderList = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class CrossOrigin:
    """The origins that may call the API, with the headers that say so."""

    headers: dict[bytes, HeaderList]

    @classmethod
    def of(cls, settings: Settings) -> CrossOrigin | None:
        """Return what the settings admit; None: nothing."""
        origins: Iterable[bytes] = (origin.encode() for origin in parse_origins(settings.cors_origins))
        headers: dict[bytes, HeaderList] = {
            origin: (
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _EXPOSED),
                *_VARY,
            )
            for origin in origins
        }
        return cls(headers) if headers else None

    def answer_headers(self, fields: HeaderFields, key: ApiKey | None) -> HeaderList:
        """Return the headers that an answer to a request with this key has in addition."""
        if key is not None and KeyScope.PUBLIC not in key.scopes:
            return _VARY
        return self.headers.get(fields.get(b"origin", b""), _VARY)

    def marked(self, wire: Wire, fields: HeaderFields, key: ApiKey | None) -> Wire:
        """Return a whole answer with these headers."""
        added = self.answer_headers(fields, key)
        lines = b"".join(b"%b: %b\r\n" % header for header in added)
        head = wire.head
        return Wire(Head(head.status, [*head.headers, *added], head.lines + lines), wire.body)

    def marking(self, send: Send, scope: Scope, services: Services | None) -> Send:
        """Return a `send` that adds these headers to the answer."""

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = header_fields(scope["headers"])
                key = None if services is None else find_key(services, fields)
                message = {**message, "headers": [*message["headers"], *self.answer_headers(fields, key)]}
            await send(message)

        return send_marked

    async def preflight(self, scope: Scope, send: Send, services: Services | None) -> bool:
        """Answer the question of a browser whether it may send a request. False: this is no such question.

        Raises ProblemError (403) for an origin that may not.
        """
        fields = header_fields(scope["headers"])
        if scope["method"] != "OPTIONS" or not {b"origin", b"access-control-request-method"} <= fields.keys():
            return False
        admitted = self.headers.get(fields[b"origin"])
        if admitted is None:
            if services is not None:
                client = scope.get("client")
                peer, route = client[0] if client else None, _ID.sub("/{campaign_id}/", scope["path"])
                services.security.refused(ORIGIN_REFUSED, "OPTIONS", route, peer, scope["headers"], None)
            raise ORIGIN_REFUSED
        await send({"type": "http.response.start", "status": 204, "headers": [*admitted, *_PREFLIGHT]})
        await send({"type": "http.response.body"})
        return True
