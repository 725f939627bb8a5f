"""GET /openapi.json and /docs: the OpenAPI document, and Swagger UI, which shows it and sends requests."""

from __future__ import annotations

from functools import cache
from typing import Final

import orjson
from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.openapi.document import document
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.assets import Asset, Compressible
from issuer.http.pages.headers import SELF, page_headers
from issuer.http.pages.templates import template
from issuer.http.problems.problem import TITLES

# Swagger UI has its icons in its style sheet, as data: URLs.
_HEADERS: Final = page_headers(style=SELF, script=SELF, more="img-src 'self' data:; ")
_VIEWER: Final = "issuer.http.docs.swagger_ui"
_STYLES: Final = (Asset(_VIEWER, "swagger-ui.css.gz"), Asset("issuer.http.docs", "docs.css"))
_SCRIPTS: Final = (Asset(_VIEWER, "swagger-ui-bundle.js.gz"), Asset("issuer.http.docs", "docs.js"))


@cache
def _document() -> Compressible:
    return Compressible.of(orjson.dumps(document()), "application/json")


@cache
def _page() -> Compressible:
    text = template("docs/docs.html").render(
        styles=[asset.path for asset in _STYLES],
        scripts=[asset.path for asset in _SCRIPTS],
        problems=sorted(TITLES.items()),
    )
    return Compressible.of(text.encode(), "text/html")


async def get_openapi(context: RequestContext) -> Response:
    return _document().response(context.request)


async def get_docs(context: RequestContext) -> Response:
    return _page().response(context.request, _HEADERS)


OPERATIONS = (
    Operation("GET", "/openapi.json", get_openapi, Access.PUBLIC, takes_slot=False),
    Operation("GET", "/docs", get_docs, Access.PUBLIC, takes_slot=False, page=True),
)
