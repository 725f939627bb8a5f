"""/console/campaigns: the list, and the page of a campaign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from issuer.campaigns.campaign import Campaign, CampaignState
from issuer.campaigns.counters import Counters, read_available_counters
from issuer.campaigns.issued import read_issued_page
from issuer.campaigns.store import find_campaign, list_campaigns
from issuer.finding.found import mask_code
from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.series.series_screens import CHARTS
from issuer.http.fields import path_id
from issuer.http.operations import Operation, RequestContext
from issuer.operators.role import Role

PATH: Final = "/console/campaigns"
PAGE_SIZE: Final = 25
SHOWN_CODES: Final = 10
_LIST: Final = ConsolePage("campaigns/list.html")
_SHOW: Final = ConsolePage("campaigns/campaign.html", charts=True, scripts=(CHARTS,))
_STATES: Final[dict[CampaignState, tuple[str, str]]] = {
    CampaignState.PREPARING: ("Preparing", "warn"),
    CampaignState.BEFORE: ("Scheduled", "warn"),
    CampaignState.OPEN: ("Live", "good"),
    CampaignState.PAUSED: ("Paused", "warn"),
    CampaignState.SOLD_OUT: ("Sold out", "bad"),
    CampaignState.ENDED: ("Ended", ""),
}


@dataclass(frozen=True, slots=True)
class CampaignView:
    """A campaign as a screen shows it. `state`: a word and the class of its badge."""

    campaign: Campaign
    counters: Counters

    @property
    def state(self) -> tuple[str, str]:
        return _STATES[self.counters.state]

    @property
    def is_over(self) -> bool:
        return self.counters.state is CampaignState.ENDED


async def get_list(context: RequestContext) -> Response:
    visit = await open_console(context)
    stores, cursor = context.services.stores, context.request.query_params.get("cursor")
    page = await list_campaigns(stores.postgres, client_id=visit.client_id, limit=PAGE_SIZE, cursor=cursor)
    counters = await read_available_counters(stores, page.items)
    views = [CampaignView(*pair) for pair in zip(page.items, counters, strict=True)]
    return _LIST.response(visit, page=page, views=views, is_first=cursor is None, may_change=visit.may(Role.OPERATOR))


async def get_campaign(context: RequestContext) -> Response:
    visit = await open_console(context)
    stores, campaign_id = context.services.stores, path_id(context.request, "campaign_id")
    campaign = await find_campaign(stores.postgres, campaign_id, client_id=visit.client_id)
    (counters,) = await read_available_counters(stores, [campaign])
    view = CampaignView(campaign, counters)
    cursor = context.request.query_params.get("cursor")
    codes = await read_issued_page(stores, campaign, limit=SHOWN_CODES, cursor=cursor)
    return _SHOW.response(
        visit, view=view, campaign=campaign, codes=codes, is_first=cursor is None, path=f"{PATH}/{campaign_id}",
        may_change=visit.may(Role.OPERATOR) and not view.is_over, may_export=visit.may(Role.OPERATOR), mask=mask_code,
    )  # fmt: skip


OPERATIONS: Final = (
    Operation("GET", PATH, get_list, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/{campaign_id}", get_campaign, Access.PUBLIC, page=True),
)
