"""A page in the language of the visitor, with its style and its script in it: one request is enough to show it."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from typing import Any, Final

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from issuer.http.pages.headers import hash_source, page_headers
from issuer.http.pages.languages import language_for
from issuer.http.pages.templates import template

STYLE: Final = "pages/page.css"
FORMS_STYLE: Final = "pages/forms.css"
"""More style, of pages with forms."""


def prefers_json(accept: str) -> bool:
    """Return whether an Accept header asks for JSON and not for a page."""
    asked = [item.partition(";")[0].strip().lower() for item in accept.split(",")]
    return "text/html" not in asked and any(name.endswith(("/json", "+json")) for name in asked)


class LocalizedPage:
    """A page of a template that extends `pages/base.html`. `script`: a file with its script, if it has one; `forms`:
    whether it has forms.

    The policy admits the contents of the two files and nothing else: a hash of them, not of what was rendered.
    """

    def __init__(self, name: str, script: str | None = None, *, forms: bool = False) -> None:
        self._name, self._script_file, self._forms = name, script, forms

    @cached_property
    def _style(self) -> str:
        names = (STYLE, FORMS_STYLE) if self._forms else (STYLE,)
        return "".join(files("issuer.http").joinpath(name).read_text(encoding="utf-8") for name in names)

    @cached_property
    def _script(self) -> str:
        file = self._script_file
        return "" if file is None else files("issuer.http").joinpath(file).read_text(encoding="utf-8")

    @cached_property
    def _headers(self) -> dict[str, str]:
        script = hash_source(self._script) if self._script else "'none'"
        return page_headers(style=hash_source(self._style), script=script, forms=self._forms)

    def response(self, request: Request, status: int = 200, **values: Any) -> Response:
        """Return the page with these values."""
        language = language_for(request)
        text = template(self._name, language).render(
            lang=language, style=Markup(self._style), script=Markup(self._script), **values
        )
        headers = {**self._headers, "content-language": language, "vary": "Accept-Language, Cookie"}
        return Response(text, status, media_type="text/html", headers=headers)
