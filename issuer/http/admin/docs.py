"""GET /openapi.json and /docs: the OpenAPI document, and a self-contained page that renders it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import orjson
from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.openapi.document import document
from issuer.http.operations import Operation, RequestContext
from issuer.http.page_headers import page_headers


@cache
def _document() -> bytes:
    return orjson.dumps(document())


@cache
def _page() -> tuple[str, dict[str, str]]:
    """Return the page and its headers."""
    text = files("issuer.http.admin").joinpath("docs.html").read_text(encoding="utf-8")
    return text, page_headers(text)


async def get_openapi(_: RequestContext) -> Response:
    return Response(_document(), media_type="application/json")


async def get_docs(_: RequestContext) -> Response:
    text, headers = _page()
    return Response(text, media_type="text/html", headers=headers)


OPERATIONS = (
    Operation("GET", "/openapi.json", get_openapi, Access.PUBLIC, takes_slot=False),
    Operation("GET", "/docs", get_docs, Access.PUBLIC, takes_slot=False),
)
