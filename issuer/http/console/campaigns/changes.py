"""/console/campaigns/new and …/{campaign_id}/…: create and change campaigns."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Final

from starlette.responses import Response

from issuer.batches.batch import BatchEndedError
from issuer.campaigns.campaign import (
    DEFAULT_CLIENT,
    MAX_CODES_OF_CAMPAIGN,
    Campaign,
    InvalidCampaignError,
    parse_campaign_format,
)
from issuer.campaigns.store import CampaignChanges, NewCampaign, change_campaign, create_campaign, find_campaign
from issuer.clients.quotas import QuotaExceededError
from issuer.http.auth import Access
from issuer.http.console.campaigns.campaign_screens import PATH
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.layout.client_field import offered_clients, read_client
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.fields import path_id
from issuer.http.loading import loading
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.zones import local_input, zone_of, zone_options
from issuer.operators.role import Role
from issuer.pools.memory import RedisMemoryError
from issuer.storage.acts import Act

NEW_PATH: Final = PATH + "/new"
ONE: Final = PATH + "/{campaign_id}"
_NEW: Final = ConsolePage("campaigns/new.html")
_EDIT: Final = ConsolePage("campaigns/edit.html")
_STATES: Final = {
    "pause": (CampaignChanges(paused=True), "is paused. Requests are refused until you resume it."),
    "resume": (CampaignChanges(paused=False), "is live again."),
    "end": (CampaignChanges(ended=True), "has ended."),
}


async def get_new(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR)
    return await _new_form(visit, TypedForm({"zone": zone_of(context.request)}))


async def post_new(context: RequestContext) -> Response:
    """Create a campaign. The next page is shown once all its codes exist and it can issue them."""
    visit = await open_console(context, Role.OPERATOR)
    typed = TypedForm(await visit.form())

    async def show(campaign: Campaign) -> Response:
        return visit.redirect(f"{PATH}/{campaign.id}", f"{campaign.batch.name} is created with all its codes.")

    act = await visit.act(show)
    await _create(visit, typed, act)
    return await _new_form(visit, typed, 422) if typed.errors else act.response


async def _create(visit: ConsoleVisit, typed: TypedForm, act: Act[Campaign]) -> None:
    """Create the campaign of a form that is right; otherwise `typed` has what is wrong."""
    name, total = typed.batch_name(), typed.needed_number("total", least=1, most=MAX_CODES_OF_CAMPAIGN)
    starts_at = typed.instant("starts")
    if starts_at is None:
        typed.refuse("starts", "a campaign needs a start: type a date and a time")
    client_id = await read_client(visit, typed)
    if typed.errors or starts_at is None:
        return
    context, pattern = visit.context, typed.text("pattern")
    try:
        new = NewCampaign(
            name,
            total,
            starts_at,
            parse_campaign_format({"pattern": pattern} if pattern else {}),
            typed.checked("public"),
            client_id or DEFAULT_CLIENT,
        )
        async with loading(context.services, context.caller.tenant):
            await create_campaign(context.services.stores, new, actor=visit.actor, act=act)
    except InvalidCampaignError as error:
        _refuse(typed, error, pattern="pattern")
    except (RedisMemoryError, QuotaExceededError) as error:
        typed.refuse("total", str(error))


def _refuse(typed: TypedForm, error: InvalidCampaignError, *, pattern: str) -> None:
    """Put a refusal of the API beside the field that it is about, without its name there."""
    message = str(error)
    about = message.removeprefix("code_format: ")
    typed.refuse("total" if about == message else pattern, about.removeprefix("total: "))


async def _new_form(visit: ConsoleVisit, typed: TypedForm, status: int = 200) -> Response:
    zones = zone_options(typed.text("zone"))
    clients = await offered_clients(visit)
    return _NEW.response(visit, status, form=typed, zones=zones, clients=clients, path=NEW_PATH)


async def _open(context: RequestContext) -> tuple[ConsoleVisit, Campaign]:
    visit = await open_console(context, Role.OPERATOR)
    campaign_id = path_id(context.request, "campaign_id")
    return visit, await find_campaign(context.services.stores.postgres, campaign_id, client_id=visit.client_id)


async def get_edit(context: RequestContext) -> Response:
    visit, campaign = await _open(context)
    zone = zone_of(context.request)
    values = {
        "name": campaign.batch.name,
        "total": str(campaign.total),
        "starts": local_input(campaign.starts_at, zone),
        "zone": zone,
        "public": "true" if campaign.public else "",
    }
    return _edit_form(visit, campaign, TypedForm.showing(values))


async def post_edit(context: RequestContext) -> Response:
    visit, campaign = await _open(context)
    typed = TypedForm(await visit.form())
    name = typed.batch_name() if typed.changed("name") else None
    total = typed.needed_number("total", least=1, most=MAX_CODES_OF_CAMPAIGN) if typed.changed("total") else None
    starts_at = typed.instant_or("starts", campaign.starts_at)
    if starts_at is None:
        typed.refuse("starts", "a campaign needs a start: type a date and a time")
    if not typed.errors:
        more = None if total == campaign.total else total
        public = typed.checked("public") if typed.changed("public") else None
        changes = CampaignChanges(name, starts_at, public=public, total=more)
        try:
            await _change(visit, campaign, changes)
            return visit.redirect(f"{PATH}/{campaign.id}", "Saved. The change is in effect.")
        except InvalidCampaignError as error:
            # The pattern is no field here: it is the number of codes that is too large for it.
            _refuse(typed, error, pattern="total")
        except (RedisMemoryError, QuotaExceededError) as error:
            typed.refuse("total", str(error))
        except BatchEndedError as error:
            typed.refuse("name", str(error))
    return _edit_form(visit, campaign, typed, 422)


def _edit_form(visit: ConsoleVisit, campaign: Campaign, typed: TypedForm, status: int = 200) -> Response:
    zones = zone_options(typed.text("zone"))
    return _EDIT.response(visit, status, campaign=campaign, form=typed, zones=zones, path=f"{PATH}/{campaign.id}")


async def post_state(context: RequestContext) -> Response:
    """Pause, resume or end a campaign."""
    visit, campaign = await _open(context)
    known = _STATES.get((await visit.form()).get("state", ""))
    if known is None:
        return visit.redirect(f"{PATH}/{campaign.id}")
    changes, said = known
    await _change(visit, campaign, changes)
    return visit.redirect(f"{PATH}/{campaign.id}", f"{campaign.batch.name} {said}")


async def _change(visit: ConsoleVisit, campaign: Campaign, changes: CampaignChanges) -> None:
    context = visit.context
    # Few requests may generate codes at the same time. Changes without new codes, such as a pause, never wait.
    async with nullcontext() if changes.total is None else loading(context.services, context.caller.tenant):
        await change_campaign(
            context.services.stores, campaign.id, changes, client_id=visit.client_id, actor=visit.actor
        )


OPERATIONS: Final = (
    Operation("GET", NEW_PATH, get_new, Access.PUBLIC, page=True),
    Operation("POST", NEW_PATH, post_new, Access.PUBLIC, page=True, takes_slot=False),
    Operation("GET", ONE + "/edit", get_edit, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/edit", post_edit, Access.PUBLIC, page=True, takes_slot=False),
    Operation("POST", ONE + "/state", post_state, Access.PUBLIC, page=True),
)
