"""/api/v1/account and /api/v1/accounts/get: the JSON routes of FealTY, and /healthz.

With ISSUER_FEALTY=on a refusal that the predecessor knows is answered as there: status 200, and a JSON string that its
clients compare. Without it, it is a problem with its own status, as on every other route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import PlainTextResponse, Response

from issuer.http.auth import Access
from issuer.http.fields import json_response
from issuer.http.loyalty.fealty import acts
from issuer.http.loyalty.fealty.account_fields import AccountFields, read_body, read_body_leniently
from issuer.http.loyalty.fealty.accounts import FealtyAccount, count_accounts, list_accounts
from issuer.http.operations import Handler, Operation, RequestContext
from issuer.http.streamed_array import array_response
from issuer.loyalty.member import InvalidMemberError, MemberExistsError, MemberNotFoundError

ACCOUNT: Final = "/api/v1/account"
ALL: Final = "/api/v1/accounts/get"
HEALTHZ: Final = "/healthz"

NOT_FOUND: Final = "{'Error': 'Account Not Found'}"
NOT_FOUND_TO_DELETE: Final = "{'Error': 'Account Not Found'"
"""Without its last brace, as the predecessor has it."""
EXISTS: Final = "{'Error': 'Account for This Email Already Exists'}"

FealtyAct = Callable[[RequestContext, AccountFields], Awaitable[FealtyAccount]]


def _route(act: FealtyAct, *, not_found: str = NOT_FOUND) -> Handler:
    """Return the handler of an act whose fields are in a JSON body, also that of a GET."""

    async def answer(context: RequestContext) -> Response:
        body = await context.request.body()
        if not context.services.settings.is_fealty:
            return json_response((await act(context, read_body(body))).to_json())
        fields = read_body_leniently(body)
        try:
            account = await act(context, fields)
        except MemberNotFoundError:
            return json_response(not_found)
        except MemberExistsError:
            return json_response(EXISTS)
        except InvalidMemberError:
            # The predecessor refuses no address but an empty one, which it takes for one that exists.
            if fields.email:
                raise
            return json_response(EXISTS)
        return json_response(account.to_json())

    return answer


async def get_accounts(context: RequestContext) -> Response:
    """Return every account as one array, however many there are; the predecessor's `null` for none."""
    program = await acts.fealty_program(context)
    postgres = context.services.stores.postgres
    if context.services.settings.is_fealty and not await count_accounts(postgres, program):
        return json_response(None)
    chunks = list_accounts(postgres, program)
    return await array_response(context, chunks, FealtyAccount.to_json)


async def get_healthz(_: RequestContext) -> Response:
    """Return 200: the process runs. /readyz also knows whether it can serve."""
    return PlainTextResponse("OK")


def _operation(method: str, path: str, handler: Handler, access: Access = Access.ADMIN) -> Operation:
    return Operation(method, path, handler, access, lenient=True, basic=access is not Access.PUBLIC)


OPERATIONS = (
    Operation("GET", HEALTHZ, get_healthz, Access.PUBLIC, lenient=True, takes_slot=False),
    _operation("GET", ALL, get_accounts),
    _operation("GET", ACCOUNT, _route(acts.find)),
    _operation("POST", ACCOUNT, _route(acts.create)),
    _operation("PUT", ACCOUNT, _route(acts.change)),
    _operation("DELETE", ACCOUNT, _route(acts.delete, not_found=NOT_FOUND_TO_DELETE)),
)
