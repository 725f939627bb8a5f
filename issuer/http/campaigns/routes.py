"""/api/v1/campaigns: create, list, show and change campaigns, and list their issued codes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from starlette.responses import Response

from issuer.campaigns.campaign import DEFAULT_CLIENT, Campaign, InvalidCampaignError, parse_campaign_format
from issuer.campaigns.counters import read_available_counters, show_campaign
from issuer.campaigns.issued import read_issued_page
from issuer.campaigns.store import (
    CampaignChanges,
    NewCampaign,
    change_campaign,
    create_campaign,
    find_campaign,
    list_campaigns,
)
from issuer.generating.code_format import CodeFormat
from issuer.http.fields import (
    PAGED,
    flag_field,
    instant_field,
    json_object,
    json_response,
    name_field,
    page_query,
    path_id,
)
from issuer.http.loading import loading
from issuer.http.naming import CLIENT_FIELDS, owner_of_codes
from issuer.http.operations import Operation, RequestContext

PATH = "/api/v1/campaigns"


async def get_campaigns(context: RequestContext) -> Response:
    limit, cursor = page_query(context.request)
    stores = context.services.stores
    page = await list_campaigns(stores.postgres, client_id=context.caller.client_id, limit=limit, cursor=cursor)
    counters = await read_available_counters(stores, page.items)
    items = [show_campaign(campaign, figures) for campaign, figures in zip(page.items, counters, strict=True)]
    return json_response({"items": items, "next_cursor": page.next_cursor})


async def post_campaign(context: RequestContext) -> Response:
    """Create a campaign. The response is sent once all its codes exist and it can issue them."""
    values = await json_object(context.request, ("name", "total", "starts_at", "code_format", "public", *CLIENT_FIELDS))
    starts_at = instant_field(values, "starts_at")
    if starts_at is None:
        raise InvalidCampaignError("starts_at is missing")
    new = NewCampaign(
        name=name_field(values),
        total=total_field(values),
        starts_at=starts_at,
        # In a thread: folding a thousand words takes some ms.
        code_format=await asyncio.to_thread(format_field, values),
        public=flag_field(values, "public") or False,
        client_id=await owner_of_codes(context, values) or DEFAULT_CLIENT,
    )

    async def show(campaign: Campaign) -> Response:
        response = await campaign_response(context, campaign, 201)
        response.headers["location"] = f"{PATH}/{campaign.id}"
        return response

    act = context.act(show)
    async with loading(context.services, context.caller.tenant):
        await create_campaign(context.services.stores, new, actor=context.caller.actor, act=act)
    return act.response


async def get_campaign(context: RequestContext) -> Response:
    return await campaign_response(context, await own_campaign(context))


async def patch_campaign(context: RequestContext) -> Response:
    """Change a campaign. The response is sent once the change is in effect."""
    campaign_id = path_id(context.request, "campaign_id")
    values = await json_object(context.request, ("name", "starts_at", "paused", "public", "ended", "total"))
    if "starts_at" in values and values["starts_at"] is None:
        raise InvalidCampaignError("a campaign needs starts_at")
    if flag_field(values, "ended") is False:
        raise InvalidCampaignError("ended can only be set to true, and that is final")
    changes = CampaignChanges(
        name=name_field(values) if "name" in values else None,
        starts_at=instant_field(values, "starts_at"),
        paused=flag_field(values, "paused"),
        public=flag_field(values, "public"),
        ended="ended" in values,
        total=total_field(values) if "total" in values else None,
    )
    # Few requests may generate codes at the same time. Changes without new codes, such as a pause, never wait.
    async with nullcontext() if changes.total is None else loading(context.services, context.caller.tenant):
        campaign = await change_campaign(
            context.services.stores,
            campaign_id,
            changes,
            client_id=context.caller.client_id,
            actor=context.caller.actor,
        )
    return await campaign_response(context, campaign)


async def get_codes(context: RequestContext) -> Response:
    """Return a page of the issued codes, in the order of issue."""
    limit, cursor = page_query(context.request)
    page = await read_issued_page(context.services.stores, await own_campaign(context), limit=limit, cursor=cursor)
    return json_response({"items": [code.to_json() for code in page.items], "next_cursor": page.next_cursor})


async def own_campaign(context: RequestContext) -> Campaign:
    """Return the campaign of the path if the caller may see it. Raises CampaignNotFoundError."""
    campaign_id = path_id(context.request, "campaign_id")
    return await find_campaign(context.services.stores.postgres, campaign_id, client_id=context.caller.client_id)


async def campaign_response(context: RequestContext, campaign: Campaign, status: int = 200) -> Response:
    (counters,) = await read_available_counters(context.services.stores, [campaign])
    return json_response(show_campaign(campaign, counters), status)


def total_field(values: Mapping[str, Any]) -> int:
    total = values.get("total")
    # bool is a subclass of int, but true is not a number of codes.
    if isinstance(total, bool) or not isinstance(total, int):
        raise InvalidCampaignError("total must be a whole number")
    return total


def format_field(values: Mapping[str, Any]) -> CodeFormat:
    value = values.get("code_format")
    if value is not None and not isinstance(value, dict):
        raise InvalidCampaignError("code_format must be an object")
    return parse_campaign_format(value or {})


OPERATIONS = (
    Operation("GET", PATH, get_campaigns, query=PAGED),
    Operation("POST", PATH, post_campaign, takes_slot=False),
    Operation("GET", PATH + "/{campaign_id}", get_campaign),
    Operation("PATCH", PATH + "/{campaign_id}", patch_campaign),
    Operation("GET", PATH + "/{campaign_id}/codes", get_codes, query=PAGED),
)
