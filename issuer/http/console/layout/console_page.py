"""A screen of the console: a template in the frame, with the files that it loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from issuer.http.console.layout.navigation import current_path, navigation_for
from issuer.http.console.layout.visitor import Visitor
from issuer.http.pages.assets import Asset
from issuer.http.pages.headers import SELF, page_headers
from issuer.http.pages.templates import template
from issuer.http.pages.zones import zone_of

_HERE: Final = "issuer.http.console.layout"
_VENDORED: Final = "issuer.http.console.layout.vendored"
_STYLE: Final = Asset(_HERE, "console.css")
_SCRIPT: Final = Asset(_HERE, "console.js")
_HTMX: Final = Asset(_VENDORED, "htmx-4.0.1.min.js")
_SSE: Final = Asset(_VENDORED, "htmx-sse-4.0.1.min.js")
CHART_STYLE: Final = Asset(_VENDORED, "uplot-1.6.32.min.css")
CHART_SCRIPT: Final = Asset(_VENDORED, "uplot-1.6.32.min.js")
_HEADERS: Final = {
    # The icon of a page is an empty data: URL, so that a browser asks for none.
    **page_headers(style=SELF, script=SELF, more="img-src 'self' data:; ", forms=True),
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class PageFiles:
    """The paths of what a screen loads."""

    style: str
    scripts: tuple[str, ...]
    chart_style: str | None = None


class ConsolePage:
    """A template below issuer/http/console/ that extends `console/layout/frame.html`, or for `plain` `plain.html`.

    `live`: it receives events. `charts`: it draws some; the script that draws them is among `scripts`.
    """

    def __init__(self, name: str, *, live: bool = False, charts: bool = False, scripts: tuple[Asset, ...] = ()) -> None:
        self._name = f"console/{name}"
        self._live, self._charts, self._scripts = live, charts, scripts

    def files(self) -> PageFiles:
        more = (*((_SSE,) if self._live else ()), *((CHART_SCRIPT,) if self._charts else ()), *self._scripts)
        scripts = tuple(asset.path for asset in (_HTMX, *more, _SCRIPT))
        return PageFiles(_STYLE.path, scripts, CHART_STYLE.path if self._charts else None)

    def response(self, visit: Visitor, status: int = 200, **values: Any) -> Response:
        """Return the screen for a person who is signed in."""
        request = visit.request
        return visit.finish(
            self._rendered(
                request,
                status,
                visit=visit,
                navigation=navigation_for(visit),
                here=current_path(request.scope["path"]),
                form_token=visit.form_token,
                form_id=str(uuid4()),
                notice=visit.notice,
                **values,
            )
        )

    def plain(self, request: Request, status: int = 200, **values: Any) -> Response:
        """Return a page without navigation."""
        return self._rendered(request, status, **{"notice": None, "form_token": None, **values})

    def _rendered(self, request: Request, status: int, **values: Any) -> Response:
        text = template(self._name).render(files=self.files(), zone=zone_of(request), **values)
        return Response(text, status, media_type="text/html", headers=dict(_HEADERS))
