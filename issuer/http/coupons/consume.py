"""/coupon/consume/: look at a coupon, use one by a multipart form, reverse a use.

A use is submitted to the engine as a redemption is; `consume_route` serves all forms of it but multipart. Where the key
is bound to a client, or the request names one, only Redis is asked.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.responses import Response

from issuer.contract.outcomes import Outcome
from issuer.coupons.reversal import Reversal, reverse_use
from issuer.engine.calls import Answer
from issuer.http.auth import Access
from issuer.http.coupons.consume_answers import is_failed_lookup, look_answer, use_wire
from issuer.http.coupons.consume_request import find_client, read_consume_request, submit
from issuer.http.coupons.consume_route import CONSUME_PATH, COUNTED
from issuer.http.coupons.fields import read_fields
from issuer.http.edge.header_fields import header_fields
from issuer.http.fields import json_response
from issuer.http.idempotency import read_idempotency_key
from issuer.http.limiting.failed_lookups import is_public
from issuer.http.metrics.exposition import INVALID
from issuer.http.operations import Operation, RequestContext

REVERSAL_WAIT_S: Final = 5.0
"""How long a reversal waits for its consumption to reach the ledger."""


async def _ask(context: RequestContext, *, look: bool) -> Answer:
    key = None if look else read_idempotency_key(header_fields(context.request.headers.raw))
    caller, services = context.caller, context.services
    request = read_consume_request(services.stores, await read_fields(context.request))
    with services.lookup_limits.attempt(caller.key, caller.address, request.customer) as attempt:
        client_id = await find_client(services, request, caller.client_id)
        for case_sensitive in (False, True):
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            submit(services, future, request, client_id, caller.key, key, look=look, case_sensitive=case_sensitive)
            given = await future
            if given.outcome is not Outcome.UNKNOWN_BATCH:
                break
        if is_failed_lookup(given.outcome, public=is_public(caller.key)):
            await attempt.failed()
        return given


async def get_consume(context: RequestContext) -> Response:
    """Answer whether the coupon could be used. Changes nothing."""
    return json_response(look_answer(await _ask(context, look=True), public=is_public(context.caller.key)))


async def post_consume(context: RequestContext) -> Response:
    """Use a coupon by a multipart form."""
    started = time.perf_counter()
    outcome: str = INVALID
    try:
        given = await _ask(context, look=False)
        outcome = given.outcome
        wire = use_wire(given, public=is_public(context.caller.key))
    finally:
        context.services.tally.count(COUNTED[outcome], time.perf_counter() - started)
    headers = {name.decode(): value.decode() for name, value in wire.head.headers}
    return Response(wire.body, wire.head.status, headers)


async def post_reverse(call: RequestContext) -> Response:
    act = call.act(show_reversal)
    await reverse_use(
        call.services.stores,
        str(call.request.path_params["consumption_id"]),
        client_id=call.caller.client_id,
        actor=call.caller.actor,
        wait_s=REVERSAL_WAIT_S,
        act=act,
    )
    return act.response


async def show_reversal(done: Reversal) -> Response:
    return json_response(done.to_json())


OPERATIONS: Final = (
    Operation("GET", CONSUME_PATH, get_consume, Access.USE, lenient=True, takes_slot=False),
    Operation("POST", CONSUME_PATH, post_consume, Access.USE, hot=True, lenient=True, takes_slot=False),
    Operation("POST", "/coupon/consume/{consumption_id}/reverse", post_reverse, Access.REDEEM, lenient=True),
)
