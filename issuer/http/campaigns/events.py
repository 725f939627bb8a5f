"""GET /api/v1/campaigns/{campaign_id}/events: a campaign's counters as they change, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.responses import Response, StreamingResponse

from issuer.campaigns.campaign import Campaign, CampaignNotFoundError
from issuer.campaigns.feeds import FeedUpdate
from issuer.campaigns.store import find_campaign
from issuer.http.campaigns.routes import PATH
from issuer.http.fields import known_query, path_id
from issuer.http.operations import Access, Operation, RequestContext, admit
from issuer.http.problems.problem import ProblemError
from issuer.http.services import Services
from issuer.instants import from_ms, show_instant

HEARTBEAT_S: Final = 15.0
"""A stream that says nothing for longer may be taken for dead by what is between."""
RETRY_MS: Final = 3_000
_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def visible_campaign(call: RequestContext, *, public_only: bool = False) -> Campaign:
    """The campaign of the path: a public one is for everybody to see, any other for administrators."""
    campaign_id = path_id(call.request, "campaign_id")
    limits, sender = call.services.limits, call.request.client
    await limits.admit(None, limits.address_of(sender.host if sender else None, call.request.headers.raw))
    try:
        campaign = await find_campaign(call.services.stores.postgres, campaign_id)
    except CampaignNotFoundError:
        if not public_only:
            await admit(call.request, call.services, Access.ADMIN)
        raise
    if not campaign.public:
        if public_only:
            raise CampaignNotFoundError("no campaign found")
        caller = await admit(call.request, call.services, Access.ADMIN)
        if caller.client_id not in (None, campaign.client_id):
            raise CampaignNotFoundError("no campaign found")
    if not campaign.is_ready:
        raise CampaignNotFoundError("no campaign found")
    return campaign


def show_tick(tick: FeedUpdate) -> dict[str, Any]:
    counters = tick.counters
    if counters is None:
        return {"state": "unavailable"}
    return {
        "state": counters.state,
        "now": show_instant(from_ms(counters.now_ms)),
        "starts_at": show_instant(from_ms(counters.starts_at_ms)),
        "total": counters.total,
        "issued": counters.issued,
        "remaining": counters.remaining,
        "rate_per_s": tick.rate_per_s,
    }


async def stream(services: Services, campaign: Campaign) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS
    async with aclosing(services.feeds.ticks(campaign, heartbeat_s=HEARTBEAT_S)) as ticks:
        async for tick in ticks:
            if tick is None:
                yield b": nothing new\n\n"
            else:
                yield b"event: counters\ndata: %b\n\n" % orjson.dumps(show_tick(tick))


async def get_events(call: RequestContext) -> Response:
    known_query(call.request)
    campaign = await visible_campaign(call)
    if not call.services.feeds.has_room:
        raise ProblemError(503, "too many streams", "too_many_streams", headers={"Retry-After": "10"})
    return StreamingResponse(stream(call.services, campaign), media_type="text/event-stream", headers=_HEADERS)


OPERATIONS = (Operation("GET", PATH + "/{campaign_id}/events", get_events, Access.PUBLIC),)
