"""GET /api/v1/campaigns/{campaign_id}/events: the counters of a campaign as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.responses import Response, StreamingResponse

from issuer.campaigns.campaign import Campaign, CampaignNotFoundError
from issuer.campaigns.feeds import FeedUpdate
from issuer.campaigns.store import find_campaign
from issuer.http.auth import Access, admit
from issuer.http.campaigns.routes import PATH
from issuer.http.fields import check_query, path_id
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError
from issuer.http.services import Services
from issuer.instants import from_ms, show_instant

HEARTBEAT_S: Final = 15.0
"""Longest silence of a stream. Proxies may close connections that are idle for longer."""
RETRY_MS: Final = 3_000
_HEADERS: Final = {"x-accel-buffering": "no"}


async def visible_campaign(context: RequestContext, *, public_only: bool = False) -> Campaign:
    """Return the campaign of the path. Public campaigns need no key, all others an admin key.

    Raises CampaignNotFoundError, also for a campaign of another client and for one that is not ready yet.
    """
    campaign_id = path_id(context.request, "campaign_id")
    limits, peer = context.services.limits, context.request.client
    await limits.admit(None, limits.address_of(peer.host if peer else None, context.request.headers.raw))
    try:
        campaign = await find_campaign(context.services.stores.postgres, campaign_id)
    except CampaignNotFoundError:
        if not public_only:
            await admit(context.request, context.services, Access.ADMIN)
        raise
    if not campaign.public:
        if public_only:
            raise CampaignNotFoundError("no campaign found")
        caller = await admit(context.request, context.services, Access.ADMIN)
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
                yield b": heartbeat\n\n"
            else:
                yield b"event: counters\ndata: %b\n\n" % orjson.dumps(show_tick(tick))


async def get_events(context: RequestContext) -> Response:
    check_query(context.request)
    campaign = await visible_campaign(context)
    if not context.services.feeds.has_room:
        raise ProblemError(503, "too many streams", "too_many_streams", headers={"Retry-After": "10"})
    return StreamingResponse(stream(context.services, campaign), media_type="text/event-stream", headers=_HEADERS)


OPERATIONS = (Operation("GET", PATH + "/{campaign_id}/events", get_events, Access.PUBLIC),)
