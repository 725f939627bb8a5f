"""GET /api/v1/campaigns/{campaign_id}/events: the counters of a campaign as server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from issuer.campaigns.campaign import Campaign, CampaignNotFoundError
from issuer.campaigns.feeds import FeedUpdate
from issuer.campaigns.store import find_campaign
from issuer.http.auth import Access, admit
from issuer.http.campaigns.routes import PATH
from issuer.http.fields import path_id
from issuer.http.operations import Operation, RequestContext
from issuer.http.services import Services
from issuer.instants import from_ms, show_instant

HEARTBEAT_S: Final = 15.0
"""Longest silence of a stream. Proxies may close connections that are idle for longer."""
RETRY_MS: Final = 3_000
MAX_STREAM_S: Final = 3_600.0
"""A stream ends after this time, and its client opens another one: no slot is held longer."""
_HEADERS: Final = {"x-accel-buffering": "no"}


async def visible_campaign(context: RequestContext, *, public_only: bool = False) -> Campaign:
    """Return the campaign of the path. Public campaigns need no key, all others an admin key.

    Raises CampaignNotFoundError, also for a campaign of another client and for one that is not ready yet.
    """
    campaign_id = path_id(context.request, "campaign_id")
    services, address = context.services, context.address
    await services.limits.admit(None, address)
    try:
        async with services.operation((address,)):
            campaign = await find_campaign(services.stores.postgres, campaign_id)
    except CampaignNotFoundError:
        if not public_only:
            await admit(context.request, services, Access.ADMIN)
        raise
    if not campaign.public:
        if public_only:
            raise CampaignNotFoundError("no campaign found")
        caller = await admit(context.request, services, Access.ADMIN)
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
    ends_at = time.monotonic() + MAX_STREAM_S
    async with aclosing(services.feeds.ticks(campaign, heartbeat_s=HEARTBEAT_S)) as ticks:
        async for tick in ticks:
            if tick is None:
                yield b": heartbeat\n\n"
            else:
                yield b"event: counters\ndata: %b\n\n" % orjson.dumps(show_tick(tick))
            if time.monotonic() >= ends_at:
                return


class EventStream(StreamingResponse):
    """A stream that holds a slot of the campaign's client, and one of the address that listens."""

    def __init__(self, context: RequestContext, campaign: Campaign) -> None:
        super().__init__(stream(context.services, campaign), media_type="text/event-stream", headers=_HEADERS)
        self._slots, self._client_id, self._address = context.services.slots, campaign.client_id, context.address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Within the share of the client an address has a share too: it must not be the only one that listens.
        async with (
            self._slots.streams_of_address.hold((self._address,)),
            self._slots.streams.hold((self._client_id, self._address)),
        ):
            await super().__call__(scope, receive, send)


async def get_events(context: RequestContext) -> Response:
    return EventStream(context, await visible_campaign(context))


OPERATIONS = (Operation("GET", PATH + "/{campaign_id}/events", get_events, Access.PUBLIC, takes_slot=False),)
