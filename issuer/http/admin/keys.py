"""/api/v1/keys: create, list and revoke API keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from issuer.access.api_keys import ApiKey, ApiKeyNotFoundError, create_key, list_keys, revoke_key
from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, name_field, page_query, page_response, path_number
from issuer.http.naming import CLIENT_FIELDS, named_client, text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.http.shown_once import shown_once

PATH: Final = "/api/v1/keys"
_NEW: Final = ("name", "scopes", *CLIENT_FIELDS, "rate_limit", "failed_lookup_limit")
_MAX_ID: Final = 2**31 - 1


async def get_keys(context: RequestContext) -> Response:
    """Return a page of all keys, without their secrets, oldest first."""
    limit, cursor = page_query(context.request)
    page = await list_keys(context.services.stores.postgres, limit=limit, cursor=cursor)
    return page_response(page, ApiKey.to_json)


async def post_key(context: RequestContext) -> Response:
    """Create a key. Its secret is in the answer, and nowhere else."""
    values = await json_object(context.request, _NEW)
    act = context.act(_show)
    key, secret = await create_key(
        context.services.stores.postgres,
        name=name_field(values),
        scopes=_scopes(values.get("scopes")),
        client_id=await named_client(context, values),
        rate_limit=text_field(values, "rate_limit"),
        failed_lookup_limit=text_field(values, "failed_lookup_limit"),
        actor=context.caller.actor,
        act=act,
    )
    return shown_once(key.to_json(), secret, 201)


async def delete_key(context: RequestContext) -> Response:
    """Revoke a key; a repeat changes nothing."""
    key_id = path_number(context.request, "key_id")
    if key_id is None or key_id > _MAX_ID:
        raise ApiKeyNotFoundError("no key found")
    return json_response(
        (await revoke_key(context.services.stores.postgres, key_id, actor=context.caller.actor)).to_json()
    )


async def _show(key: ApiKey) -> Response:
    return shown_once(key.to_json(), None, 201)


def _scopes(value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(scope, str) for scope in value):
        raise invalid("scopes must be an array of scopes")
    return value


OPERATIONS: Final = (
    Operation("GET", PATH, get_keys, Access.OPERATOR, query=PAGED),
    Operation("POST", PATH, post_key, Access.OPERATOR),
    Operation("DELETE", PATH + "/{key_id}", delete_key, Access.OPERATOR),
)
