"""Answers with a secret: it is shown once, and the answer that is kept for an Idempotency-Key is without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from issuer.http.fields import json_response


def shown_once(shown: Mapping[str, Any], secret: str | None, status: int) -> Response:
    """Return an answer with a `secret`, which no cache may store. None: the one that is kept."""
    response = json_response({**shown, "secret": secret}, status)
    response.headers["cache-control"] = "no-store"
    return response
