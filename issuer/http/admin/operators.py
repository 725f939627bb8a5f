"""/api/v1/operators: create, list, reset and disable those who sign in to the console with a password."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, name_field, page_query, page_response
from issuer.http.naming import CLIENT_FIELDS, named_client, text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.shown_once import shown_once
from issuer.ids import parse_uuid
from issuer.operators.operator import Operator, OperatorNotFoundError
from issuer.operators.store import create_operator, disable_operator, list_operators, reset_operator

PATH: Final = "/api/v1/operators"
ONE: Final = PATH + "/{operator_id}"


async def get_operators(context: RequestContext) -> Response:
    """Return a page of all operators, without their passwords, oldest first."""
    limit, cursor = page_query(context.request)
    page = await list_operators(context.services.stores.postgres, limit=limit, cursor=cursor)
    return page_response(page, Operator.to_json)


async def post_operator(context: RequestContext) -> Response:
    """Create an operator. The first password is in the answer, and nowhere else."""
    values = await json_object(context.request, ("name", "role", *CLIENT_FIELDS))
    operator, password = await create_operator(
        context.services.stores.postgres,
        name_field(values),
        text_field(values, "role") or "",
        client_id=await named_client(context, values),
        actor=context.caller.actor,
        act=context.act(_show_created),
    )
    return shown_once(operator.to_json(), password, 201)


async def post_reset(context: RequestContext) -> Response:
    """Give an operator another first password, and sign every browser of the operator out."""
    operator, password = await reset_operator(
        context.services.stores.postgres, given_operator(context), actor=context.caller.actor, act=context.act(_show)
    )
    return shown_once(operator.to_json(), password, 200)


async def delete_operator(context: RequestContext) -> Response:
    """Disable an operator."""
    actor = context.caller.actor
    operator = await disable_operator(context.services.stores.postgres, given_operator(context), actor=actor)
    return json_response(operator.to_json())


def given_operator(context: RequestContext) -> UUID:
    """Return the id in the path. Raises OperatorNotFoundError."""
    operator_id = parse_uuid(context.request.path_params["operator_id"])
    if operator_id is None:
        raise OperatorNotFoundError
    return operator_id


async def _show(operator: Operator) -> Response:
    return shown_once(operator.to_json(), None, 200)


async def _show_created(operator: Operator) -> Response:
    return shown_once(operator.to_json(), None, 201)


OPERATIONS: Final = (
    Operation("GET", PATH, get_operators, Access.OPERATOR, query=PAGED),
    Operation("POST", PATH, post_operator, Access.OPERATOR),
    Operation("POST", ONE + "/reset", post_reset, Access.OPERATOR),
    Operation("DELETE", ONE, delete_operator, Access.OPERATOR),
)
