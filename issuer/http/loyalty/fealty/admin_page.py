"""GET /api/v1/accounts/admin and the four forms on it: the admin page of FealTY.

Each form is answered with the page again and a message, as the predecessor does it. With ISSUER_FEALTY=on its status
is always 200; without it, that of the refusal.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from issuer.http.loyalty.fealty import acts
from issuer.http.loyalty.fealty.account_fields import read_form_fields
from issuer.http.loyalty.fealty.accounts import FealtyAccount, count_accounts, list_chunk
from issuer.http.loyalty.fealty.routes import ACCOUNT, FealtyAct
from issuer.http.operations import Handler, Operation, RequestContext
from issuer.http.pages.forms import read_form
from issuer.http.pages.page import LocalizedPage
from issuer.http.problems.failures import problem_of

ADMIN: Final = "/api/v1/accounts/admin"
SHOWN: Final = 50
"""Accounts on one page; a link leads to the next ones."""
_PAGE: Final = LocalizedPage("loyalty/fealty/admin.html", forms=True)
_SHOWN_REFUSALS: Final = frozenset({400, 403, 404, 409})
"""Refusals that are shown above the forms; any other is a page of its own."""


async def get_admin(context: RequestContext) -> Response:
    after = context.request.query_params.get("after", "0")
    return await _page(context, after=int(after) if after.isascii() and after.isdigit() and len(after) < 19 else 0)


def _form(act: FealtyAct, done: str) -> Handler:
    """Return the handler of a form. `done`: the message that it worked, by its name in the template."""

    async def answer(context: RequestContext) -> Response:
        form = await read_form(context.request)
        try:
            fields = read_form_fields(form)
            account = await act(context, fields)
        except Exception as error:
            problem = problem_of(error)
            if problem is None or problem.status not in _SHOWN_REFUSALS:
                raise
            status = 200 if context.services.settings.is_fealty else problem.status
            return await _page(context, status=status, error=problem.code, address=form.get("email", ""))
        return await _page(context, account=account, done=done)

    return answer


async def _page(
    context: RequestContext, *, status: int = 200, account: FealtyAccount | None = None, after: int = 0, **values: Any
) -> Response:
    program = await acts.fealty_program(context)
    postgres = context.services.stores.postgres
    accounts = await list_chunk(postgres, program, after=after, limit=SHOWN + 1)
    shown = accounts[:SHOWN]
    return _PAGE.response(
        context.request,
        status,
        base=ACCOUNT,
        program=program.name,
        account=None if account is None else account.to_json(),
        count=await count_accounts(postgres, program),
        accounts=[one.to_json() for one in shown],
        after=shown[-1].found.account_id if len(accounts) > SHOWN else None,
        **{"done": "", "error": "", "address": "", **values},
    )


def _operation(method: str, path: str, handler: Handler) -> Operation:
    return Operation(method, path, handler, lenient=True, page=True, basic=True)


OPERATIONS = (
    _operation("GET", ADMIN, get_admin),
    _operation("POST", f"{ACCOUNT}/form/search", _form(acts.find, "found")),
    _operation("POST", f"{ACCOUNT}/form/create", _form(acts.create, "created")),
    _operation("POST", f"{ACCOUNT}/form/update", _form(acts.change, "changed")),
    _operation("POST", f"{ACCOUNT}/form/delete", _form(acts.delete, "deleted")),
)
