"""/coupon/consume/: use a coupon, ask whether it could be used, give a use back.

A use is asked of the engine as a redemption is, and whole small requests come straight from the protocol in the same
way (`consume_fast_path`). Where the key is bound to a client, or the request names one, nothing but Redis is asked.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.responses import Response

from issuer.coupons.reversal import reverse_use
from issuer.engine.calls import Answer
from issuer.http.coupons.consume_answers import is_failed_lookup, look_answer, use_wire
from issuer.http.coupons.consume_fast_path import COUNTED
from issuer.http.coupons.consume_request import FIELDS, find_client, read_consume_request, read_idempotency_key, submit
from issuer.http.coupons.fields import read_fields
from issuer.http.edge.exchange import read_credentials
from issuer.http.fields import answer, known_query
from issuer.http.limiting.failed_lookups import is_public
from issuer.http.metrics.exposition import INVALID
from issuer.http.operations import Access, Operation, RequestContext
from issuer.instants import show_instant

CONSUME_PATH: Final = "/coupon/consume/"
REVERSAL_WAIT_S: Final = 5.0
"""How long a reversal waits for its consumption to reach the ledger."""


async def _ask(call: RequestContext, *, look: bool) -> Answer:
    asked = read_consume_request(await read_fields(call.request, FIELDS))
    key = None
    if not look:
        _, last_key, keys_given = read_credentials(call.request.headers.raw)
        key = read_idempotency_key(last_key, keys_given)
    caller = call.caller
    with call.services.lookup_limits.attempt(caller.key, caller.address, asked.customer) as attempt:
        client_id = await find_client(call.services, asked, caller.client_id)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        submit(call.services, future, asked, client_id, caller.api_key_id, key, look=look)
        given = await future
        if is_failed_lookup(given.outcome, public=is_public(caller.key)):
            await attempt.missed()
        return given


async def get_consume(call: RequestContext) -> Response:
    """Changes nothing."""
    return answer(look_answer(await _ask(call, look=True), public=is_public(call.caller.key)))


async def post_consume(call: RequestContext) -> Response:
    """What does not go the short way: chunked and large bodies, multipart forms, HTTP/1.0."""
    started = time.perf_counter()
    outcome: str = INVALID
    try:
        given = await _ask(call, look=False)
        outcome = given.outcome
        wire = use_wire(given, public=is_public(call.caller.key))
    finally:
        call.services.tally.count(COUNTED[outcome], time.perf_counter() - started)
    headers = {name.decode(): value.decode() for name, value in wire.head.start["headers"]}
    return Response(wire.body, wire.head.status, headers)


async def post_reverse(call: RequestContext) -> Response:
    known_query(call.request)
    done = await reverse_use(
        call.services.stores,
        str(call.request.path_params["consumption_id"]),
        client_id=call.caller.client_id,
        actor=call.caller.actor,
        wait_s=REVERSAL_WAIT_S,
    )
    return answer(
        {
            "reversed": True,
            "consumption_id": done.consumption_id,
            "code": done.code,
            "order_id": done.order_id,
            "reversed_at": show_instant(done.reversed_at),
        }
    )


OPERATIONS: Final = (
    Operation("GET", CONSUME_PATH, get_consume, Access.USE),
    Operation("POST", CONSUME_PATH, post_consume, Access.USE),
    Operation("POST", "/coupon/consume/{consumption_id}/reverse", post_reverse, Access.REDEEM),
)
