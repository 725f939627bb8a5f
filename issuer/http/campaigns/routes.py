"""/api/v1/campaigns: create, list, show, change, and the codes that were issued."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any
from uuid import UUID

from starlette.responses import Response

from issuer.campaigns.campaign import HOUSE, Campaign, InvalidCampaignError, campaign_format
from issuer.campaigns.counters import known_counters, show_campaign
from issuer.campaigns.issued import IssuedCode, issued_page
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
    answer,
    flag_field,
    instant_field,
    is_uuid,
    json_object,
    known_query,
    name_field,
    page_query,
    path_id,
)
from issuer.http.operations import BOUND_KEY, Caller, Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.instants import show_instant

PATH = "/api/v1/campaigns"


def show_issued(code: IssuedCode) -> dict[str, Any]:
    return {
        "seq": code.seq,
        "code": code.code,
        "issued_at": None if code.issued_at is None else show_instant(code.issued_at),
    }


async def get_campaigns(call: RequestContext) -> Response:
    limit, cursor = page_query(call.request)
    stores = call.services.stores
    page = await list_campaigns(stores.postgres, client_id=call.caller.client_id, limit=limit, cursor=cursor)
    counters = await known_counters(stores, page.items)
    items = [show_campaign(campaign, figures) for campaign, figures in zip(page.items, counters, strict=True)]
    return answer({"items": items, "next_cursor": page.next_cursor})


async def post_campaign(call: RequestContext) -> Response:
    """Answers when the campaign can issue."""
    known_query(call.request)
    values = await json_object(call.request, ("name", "total", "starts_at", "code_format", "public", "client_id"))
    starts_at = instant_field(values, "starts_at")
    if starts_at is None:
        raise InvalidCampaignError("starts_at is missing")
    new = NewCampaign(
        name=name_field(values),
        total=total_field(values),
        starts_at=starts_at,
        code_format=format_field(values),
        public=flag_field(values, "public") or False,
        client_id=client_field(values, call.caller),
    )
    async with call.services.loads:
        campaign = await create_campaign(call.services.stores, new, actor=call.caller.actor)
    response = await shown(call, campaign, 201)
    response.headers["location"] = f"{PATH}/{campaign.id}"
    return response


async def get_campaign(call: RequestContext) -> Response:
    known_query(call.request)
    return await shown(call, await own_campaign(call))


async def patch_campaign(call: RequestContext) -> Response:
    """Answers when the change counts."""
    known_query(call.request)
    campaign_id = path_id(call.request, "campaign_id")
    values = await json_object(call.request, ("name", "starts_at", "paused", "public", "ended", "total"))
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
    # Codes are made for a few at a time; a pause waits for nobody.
    async with nullcontext() if changes.total is None else call.services.loads:
        campaign = await change_campaign(
            call.services.stores, campaign_id, changes, client_id=call.caller.client_id, actor=call.caller.actor
        )
    return await shown(call, campaign)


async def get_codes(call: RequestContext) -> Response:
    """In the order in which they were issued."""
    limit, cursor = page_query(call.request)
    page = await issued_page(call.services.stores, await own_campaign(call), limit=limit, cursor=cursor)
    return answer({"items": [show_issued(code) for code in page.items], "next_cursor": page.next_cursor})


async def own_campaign(call: RequestContext) -> Campaign:
    """The campaign of the path, if it is the caller's to see."""
    campaign_id = path_id(call.request, "campaign_id")
    return await find_campaign(call.services.stores.postgres, campaign_id, client_id=call.caller.client_id)


async def shown(call: RequestContext, campaign: Campaign, status: int = 200) -> Response:
    (counters,) = await known_counters(call.services.stores, [campaign])
    return answer(show_campaign(campaign, counters), status)


def total_field(values: Mapping[str, Any]) -> int:
    total = values.get("total")
    # bool is an int to Python, and true is no number of codes to anybody.
    if isinstance(total, bool) or not isinstance(total, int):
        raise InvalidCampaignError("total must be a whole number")
    return total


def format_field(values: Mapping[str, Any]) -> CodeFormat:
    given = values.get("code_format")
    if given is not None and not isinstance(given, dict):
        raise InvalidCampaignError("code_format must be an object")
    return campaign_format(given or {})


def client_field(values: Mapping[str, Any], caller: Caller) -> UUID:
    """Whose the codes are: a bound key's client, the one that is named, or nobody's in particular."""
    given = values.get("client_id")
    if given is None:
        return caller.client_id or HOUSE
    if not isinstance(given, str) or not is_uuid(given):
        raise invalid("invalid client_id format", "invalid_client_id")
    if caller.client_id not in (None, UUID(given)):
        raise BOUND_KEY
    return UUID(given)


OPERATIONS = (
    Operation("GET", PATH, get_campaigns),
    Operation("POST", PATH, post_campaign),
    Operation("GET", PATH + "/{campaign_id}", get_campaign),
    Operation("PATCH", PATH + "/{campaign_id}", patch_campaign),
    Operation("GET", PATH + "/{campaign_id}/codes", get_codes),
)
