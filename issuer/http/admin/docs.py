"""GET /openapi.json and /docs: the OpenAPI document, and a self-contained page that renders it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import orjson
from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.openapi.document import document
from issuer.http.operations import Operation, RequestContext

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


@cache
def _document() -> bytes:
    return orjson.dumps(document())


@cache
def _page() -> bytes:
    return files("issuer.http.admin").joinpath("docs.html").read_bytes()


async def get_openapi(_: RequestContext) -> Response:
    return Response(_document(), media_type="application/json")


async def get_docs(_: RequestContext) -> Response:
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
    return Response(_page(), media_type="text/html", headers=headers)


OPERATIONS = (
    Operation("GET", "/openapi.json", get_openapi, Access.PUBLIC),
    Operation("GET", "/docs", get_docs, Access.PUBLIC),
)
