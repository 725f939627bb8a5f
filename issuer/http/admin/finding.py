"""/api/v1/find: what a text names, and its time line, with masked codes; and one code in full, which is audited."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from starlette.responses import Response

from issuer.finding.find import find
from issuer.finding.found import CodeName, Found, FoundEvent, FoundMember
from issuer.finding.reveal import CodeNotFoundError, RevealedCode, reveal_code
from issuer.http.admin.redemptions import show_attributes
from issuer.http.fields import id_field, json_object, json_response
from issuer.http.naming import CLIENT_FIELDS, named_client
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.instants import show_instant

PATH: Final = "/api/v1/find"
MAX_SEQ: Final = 2**63 - 1


async def get_find(context: RequestContext) -> Response:
    text = context.request.query_params.get("q")
    if text is None:
        raise invalid("q is missing: it is what is searched for")
    return json_response(show_found(await search(context, text)))


async def search(context: RequestContext, text: str) -> Found:
    """Search for a text. What is not found counts against enumeration, as an unknown code does.

    Who sees every client may list all codes, and has nothing to enumerate.
    """
    caller = context.caller
    if caller.client_id is None:
        return await find(context.services.stores, text)
    with context.services.lookup_limits.attempt(caller.key, caller.address) as attempt:
        found = await find(context.services.stores, text, client_id=caller.client_id)
        if not found.by:
            await attempt.failed()
    return found


async def post_reveal(context: RequestContext) -> Response:
    """Show a code in full. The audit log has who saw it, so the answer that is kept for a repeat is without it."""
    values = await json_object(context.request, ("batch_id", *CLIENT_FIELDS, "seq"))
    batch_id, client_id, seq = id_field(values, "batch_id"), await named_client(context, values), values.get("seq")
    if batch_id is None or type(seq) is not int or not 0 <= seq <= MAX_SEQ:
        raise invalid("batch_id and seq must name a code: they are in what the search has found")
    if client_id is None:
        raise CodeNotFoundError("no code found")
    postgres, act = context.services.stores.postgres, context.act(_show_kept)
    revealed = await reveal_code(postgres, batch_id, client_id, seq, actor=context.caller.actor, act=act)
    return _show_revealed({"code": revealed.code, **show_attributes(revealed.attributes)})


async def _show_kept(revealed: RevealedCode) -> Response:
    return _show_revealed({"code": None})


def _show_revealed(shown: dict[str, Any]) -> Response:
    response = json_response(shown)
    response.headers["cache-control"] = "no-store"
    return response


def show_found(found: Found) -> dict[str, Any]:
    return {
        "found_by": [{"search": by, "found": count} for by, count in found.by.items()],
        "codes": [{**_show_name(code.name), "state": code.state} for code in found.codes],
        "members": [_show_member(member) for member in found.members],
        "events": [_show_event(event) for event in found.events],
        "cut": found.cut,
    }


def _show_name(name: CodeName) -> dict[str, Any]:
    return asdict(name)


def _show_member(member: FoundMember) -> dict[str, Any]:
    erased_at = None if member.erased_at is None else show_instant(member.erased_at)
    return {"id": member.id, "client_id": member.client_id, "ref": member.ref, "erased_at": erased_at}


def _show_event(event: FoundEvent) -> dict[str, Any]:
    return {
        "at": None if event.at is None else show_instant(event.at),
        "event": event.kind,
        "code": None if event.code is None else _show_name(event.code),
        "customer_id": event.customer_id,
        "customer": event.customer,
        "order_id": event.order_id,
        "use_id": event.use_id,
        "program": event.program,
        "member_id": event.member_id,
        "points": event.points,
        "note": event.note,
    }


OPERATIONS: Final = (
    Operation("GET", PATH, get_find, query=("q",)),
    Operation("POST", PATH + "/reveal", post_reveal),
)
