"""POST /language: the language that a visitor chooses, kept in a cookie of its own."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.cookies import set_cookie
from issuer.http.pages.forms import local_path, read_form
from issuer.http.pages.languages import LANGUAGE_COOKIE, LANGUAGES
from issuer.http.problems.problem import invalid

PATH: Final = "/language"
KEPT_S: Final = 31_536_000


async def post_language(context: RequestContext) -> Response:
    request = context.request
    fields = await read_form(request)
    language, path = fields.get("language", ""), local_path(fields.get("path", "/"))
    if language not in LANGUAGES or path is None:
        raise invalid("language or path is not known")
    response = Response(status_code=303, headers={"location": path})
    set_cookie(request, response, LANGUAGE_COOKIE, language, max_age_s=KEPT_S)
    return response


OPERATIONS = (Operation("POST", PATH, post_language, Access.PUBLIC, takes_slot=False, page=True),)
