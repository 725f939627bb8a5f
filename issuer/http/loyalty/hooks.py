"""…/programs/{program}/hooks: endpoints of shops, and the deliveries that have arrived at them."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from issuer.access.secrets import SecretKeys
from issuer.http.fields import PAGED, flag_field, json_object, json_response, page_query, page_response
from issuer.http.loyalty.requests import PROGRAM_PATH, program_of
from issuer.http.naming import text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.http.shown_once import shown_once
from issuer.ids import parse_uuid
from issuer.loyalty.hooks.endpoint import HookEndpoint, HookNotFoundError, parse_kind
from issuer.loyalty.hooks.endpoint_store import (
    HookWithSecret,
    create_endpoint,
    find_endpoint,
    list_endpoints,
    revoke_endpoint,
    rotate_secret,
)
from issuer.loyalty.hooks.inbox import InboxRow, InboxState, list_inbox

HOOKS_PATH: Final = PROGRAM_PATH + "/hooks"
HOOK_PATH: Final = HOOKS_PATH + "/{hook}"
_NEW: Final = ("kind", "secret", "source", "notification_url", "keeps_unknown")


async def post_hook(context: RequestContext) -> Response:
    """Create an endpoint. Its secret is in the answer, and nowhere else."""
    program = await program_of(context)
    values = await json_object(context.request, _NEW)
    kind = text_field(values, "kind")
    if kind is None:
        raise invalid("kind is required")
    act = context.act(_kept(201))
    created = await create_endpoint(
        context.services.stores.postgres,
        _keys(context),
        program,
        parse_kind(kind),
        secret=text_field(values, "secret"),
        source=text_field(values, "source"),
        notification_url=text_field(values, "notification_url"),
        keeps_unknown=flag_field(values, "keeps_unknown") or False,
        actor=context.caller.actor,
        act=act,
    )
    return _with_secret(created, 201)


async def post_rotation(context: RequestContext) -> Response:
    """Give an endpoint a new secret; the one before stays valid for a day."""
    endpoint = await hook_of(context)
    values = await json_object(context.request, ("secret",))
    rotated = await rotate_secret(
        context.services.stores.postgres,
        _keys(context),
        endpoint,
        secret=text_field(values, "secret"),
        actor=context.caller.actor,
        act=context.act(_kept(200)),
    )
    return _with_secret(rotated, 200)


async def get_hooks(context: RequestContext) -> Response:
    """Return a page of the endpoints of a program, oldest first."""
    program = await program_of(context)
    limit, cursor = page_query(context.request)
    page = await list_endpoints(context.services.stores.postgres, program.id, limit=limit, cursor=cursor)
    return page_response(page, HookEndpoint.to_json)


async def get_hook(context: RequestContext) -> Response:
    return json_response((await hook_of(context)).to_json())


async def delete_hook(context: RequestContext) -> Response:
    """Revoke an endpoint; a repeat changes nothing."""
    endpoint = await hook_of(context)
    revoked = await revoke_endpoint(context.services.stores.postgres, endpoint, actor=context.caller.actor)
    return json_response(revoked.to_json())


async def get_inbox(context: RequestContext) -> Response:
    """Return a page of the deliveries that have arrived at an endpoint, newest first."""
    endpoint = await hook_of(context)
    limit, cursor = page_query(context.request)
    page = await list_inbox(
        context.services.stores.postgres,
        endpoint_id=endpoint.id,
        state=_state(context.request.query_params.get("state")),
        limit=limit,
        cursor=cursor,
    )
    return page_response(page, InboxRow.to_json)


async def hook_of(context: RequestContext) -> HookEndpoint:
    """Return the endpoint of the path. Raises ProgramNotFoundError, HookNotFoundError."""
    program, hook_id = await program_of(context), parse_uuid(context.request.path_params["hook"])
    if hook_id is None:
        raise HookNotFoundError
    return await find_endpoint(context.services.stores.postgres, hook_id, program_id=program.id)


def _keys(context: RequestContext) -> SecretKeys:
    return SecretKeys.from_settings(context.services.settings)


def _kept(status: int) -> Any:
    """Return what shows the answer that is kept for an Idempotency-Key: without the secret, which is not stored."""

    async def show(made: HookWithSecret) -> Response:
        return shown_once(made.endpoint.to_json(), None, status)

    return show


def _with_secret(made: HookWithSecret, status: int) -> Response:
    return shown_once(made.endpoint.to_json(), made.secret, status)


def _state(given: str | None) -> InboxState | None:
    if given is not None and given not in [*InboxState]:
        raise invalid(f"state must be one of {', '.join(InboxState)}")
    return None if given is None else InboxState(given)


OPERATIONS: Final = (
    Operation("GET", HOOKS_PATH, get_hooks, query=PAGED),
    Operation("POST", HOOKS_PATH, post_hook),
    Operation("GET", HOOK_PATH, get_hook),
    Operation("DELETE", HOOK_PATH, delete_hook),
    Operation("POST", HOOK_PATH + "/rotate", post_rotation),
    Operation("GET", HOOK_PATH + "/inbox", get_inbox, query=("state", *PAGED)),
)
