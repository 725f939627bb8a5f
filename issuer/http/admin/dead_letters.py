"""/api/v1/dead-letters: events that could not be recorded in the ledger."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, page_query, page_response, query_flag
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.instants import show_instant
from issuer.ledger.dead_letters import RetryResult, StoredDeadLetter, page_of_dead_letters, retry_dead_letters

PATH: Final = "/api/v1/dead-letters"


async def get_dead_letters(context: RequestContext) -> Response:
    """Return a page of the dead letters that wait, oldest first; with `resolved=true` of all."""
    limit, cursor = page_query(context.request)
    resolved = query_flag(context.request, "resolved")
    page = await page_of_dead_letters(context.services.stores.postgres, resolved=resolved, limit=limit, cursor=cursor)
    return page_response(page, show_letter)


async def post_retry(context: RequestContext) -> Response:
    """Try again to record the dead letters that wait, or one of them."""
    values = await json_object(context.request, ("id",))
    only = values.get("id")
    if only is not None and (type(only) is not int or not 0 < only < 2**63):
        raise invalid("id must be the id of a dead letter")
    act = context.act(_show_retried)
    await retry_dead_letters(context.services.stores.postgres, only_id=only, actor=context.caller.actor, act=act)
    return act.response


async def _show_retried(retried: RetryResult) -> Response:
    reasons = [{"id": letter, "reason": reason} for letter, reason in retried.reasons.items()]
    return json_response({"resolved": retried.resolved, "not_resolved": reasons})


def show_letter(letter: StoredDeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "partition": letter.partition,
        "epoch": letter.epoch,
        "pool": letter.pool_id,
        "seq": letter.seq,
        "reason": letter.reason,
        "created_at": show_instant(letter.created_at),
        "resolved_at": None if letter.resolved_at is None else show_instant(letter.resolved_at),
    }


OPERATIONS: Final = (
    Operation("GET", PATH, get_dead_letters, Access.OPERATOR, query=("resolved", *PAGED)),
    Operation("POST", PATH + "/retry", post_retry, Access.OPERATOR),
)
