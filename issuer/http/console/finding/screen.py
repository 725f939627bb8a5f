"""/console/find: look for whatever a customer quotes. Who saw a code in full is in the audit log."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.responses import Response

from issuer.finding.find import MAX_TEXT, InvalidSearchError
from issuer.finding.found import CodeName, Found
from issuer.finding.reveal import CodeNotFoundError, RevealedCode, reveal_code
from issuer.http.admin.finding import search
from issuer.http.auth import Access
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.finding import words
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.operations import Operation, RequestContext
from issuer.ids import parse_uuid
from issuer.operators.role import Role

PATH: Final = "/console/find"
_PAGE: Final = ConsolePage("finding/find.html")


async def get_find(context: RequestContext) -> Response:
    visit = await open_console(context)
    return await _show(visit, context.request.query_params.get("q", ""))


async def post_reveal(context: RequestContext) -> Response:
    """Show the page of the search once more, with one code in full."""
    visit = await open_console(context, Role.OPERATOR)
    form = await visit.form()
    batch_id, client_id = parse_uuid(form.get("batch_id", "")), parse_uuid(form.get("client_id", ""))
    seq = form.get("seq", "")
    if batch_id is None or client_id is None or not (seq.isascii() and seq.isdigit() and len(seq) < 19):
        raise CodeNotFoundError("no code found")
    if visit.client_id not in (None, client_id):
        raise CodeNotFoundError("no code found")
    postgres = context.services.stores.postgres
    shown = await reveal_code(postgres, batch_id, client_id, int(seq), actor=visit.actor)
    return await _show(visit, form.get("q", ""), {(batch_id, client_id, int(seq)): shown})


async def _show(
    visit: ConsoleVisit, text: str, revealed: dict[tuple[UUID, UUID, int], RevealedCode] | None = None
) -> Response:
    found, error = Found(), ""
    if text:
        try:
            found = await search(visit.context, text)
        except InvalidSearchError:
            error = f"Type at most {MAX_TEXT} characters, some of which can be seen."

    def revealed_code(name: CodeName) -> RevealedCode | None:
        return (revealed or {}).get((name.batch_id, name.client_id, name.seq))

    return _PAGE.response(
        visit, 400 if error else 200, q=text, found=found, error=error, words=words,
        revealed_code=revealed_code, may_reveal=visit.may(Role.OPERATOR), taken_for=words.taken_for(list(found.by)),
    )  # fmt: skip


OPERATIONS: Final = (
    Operation("GET", PATH, get_find, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/reveal", post_reveal, Access.PUBLIC, page=True),
)
