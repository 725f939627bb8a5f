"""GET /c/{campaign_id}: the self-contained page where customers wait for a public campaign and get their codes."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.campaigns.campaign import CampaignNotFoundError
from issuer.campaigns.counters import read_available_counters
from issuer.campaigns.feeds import FeedUpdate
from issuer.http.auth import Access
from issuer.http.campaigns.events import show_tick, visible_campaign
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.page import LocalizedPage, prefers_json
from issuer.ids import parse_uuid
from issuer.names import visible

PATH: Final = "/c/{campaign_id}"
_CAMPAIGN: Final = LocalizedPage("campaigns/page.html", script="campaigns/page.js")
_UNKNOWN: Final = LocalizedPage("campaigns/unknown.html")


async def get_page(context: RequestContext) -> Response:
    """Return the page of a public campaign. Any other campaign is a 404, for every caller.

    The 404 is a page, too, except for a caller that asks for JSON.
    """
    request = context.request
    try:
        if parse_uuid(request.path_params["campaign_id"]) is None:
            raise CampaignNotFoundError("no campaign found")
        campaign = await visible_campaign(context, public_only=True)
    except CampaignNotFoundError:
        if prefers_json(request.headers.get("accept", "")):
            raise
        unknown = _UNKNOWN.response(request, 404)
        unknown.headers["vary"] = "Accept, Accept-Language, Cookie"
        return unknown
    (counters,) = await read_available_counters(context.services.stores, [campaign])
    return _CAMPAIGN.response(
        request,
        name=visible(campaign.batch.name),
        total=campaign.total,
        starts_at=campaign.starts_at,
        data={"id": str(campaign.id), **show_tick(FeedUpdate(counters))},
    )


OPERATIONS = (Operation("GET", PATH, get_page, Access.PUBLIC, takes_slot=False, page=True),)
