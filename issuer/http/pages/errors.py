"""Refusals and failures of pages, as pages."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from issuer.http.operations import PathOperations
from issuer.http.pages.page import LocalizedPage, prefers_json
from issuer.http.problems.problem import ProblemError

_PAGE: Final = LocalizedPage("pages/error.html")
_BY_CODE: Final = ("stale_form", "cross_site")
_BY_STATUS: Final = {404: "not_found", 429: "limited", 500: "broken", 503: "busy"}


def shows_pages(request: Request) -> bool:
    """Return whether the answer to a request is for a person: it is for a page, and does not ask for JSON."""
    operations = request.scope.get("endpoint")
    return (
        isinstance(operations, PathOperations)
        and operations.is_page
        and not prefers_json(request.headers.get("accept", ""))
    )


def error_page(request: Request, problem: ProblemError) -> Response:
    """Return the page that shows a problem, with the status and the headers of the problem."""
    kind = problem.code if problem.code in _BY_CODE else _BY_STATUS.get(problem.status, "refused")
    wait = problem.headers.get("Retry-After", "")
    # Only a GET can be repeated by a link; a form was sent from a page with the same path, or near it.
    again = request.scope["path"] if kind != "not_found" and request.method == "GET" else None
    response = _PAGE.response(
        request, problem.status, kind=kind, wait_s=int(wait) if wait.isdigit() else None, again=again
    )
    response.headers.update(problem.headers)
    response.headers["vary"] += ", Accept"
    return response
