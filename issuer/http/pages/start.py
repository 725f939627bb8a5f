"""GET /: the way to the console; without one, what this server is. It shows neither keys nor data."""

from __future__ import annotations

from shlex import quote
from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.page import LocalizedPage

_PAGE: Final = LocalizedPage("pages/start.html")


async def get_start(context: RequestContext) -> Response:
    if context.services.settings.has_console:
        return Response(status_code=303, headers={"location": "/console"})
    request, needs_key = context.request, context.services.checks_keys
    # The address by which the visitor reached this page. It is only shown.
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else request.url.scheme
    address = quote(f"{scheme}://{request.headers.get('host', 'localhost')}/api/v1/batches")
    command = f'curl {address} -H "Authorization: Bearer $KEY"' if needs_key else f"curl {address}"
    return _PAGE.response(request, command=command, needs_key=needs_key)


OPERATIONS = (Operation("GET", "/", get_start, Access.PUBLIC, takes_slot=False, page=True),)
