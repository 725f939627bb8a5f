"""/console/batches: the list, and the page of a batch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from issuer.access import audit
from issuer.batches.batch import Batch, BatchNotFoundError
from issuer.batches.store import find_batch, list_batches
from issuer.campaigns.campaign import CampaignNotFoundError
from issuer.campaigns.store import find_campaign
from issuer.generating.jobs import list_jobs
from issuer.http.admin.reports import get_report
from issuer.http.answered import AnsweredError
from issuer.http.auth import Access
from issuer.http.console.campaigns.campaign_screens import PATH as CAMPAIGNS
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.rules_in_words import batch_state, show_rules
from issuer.http.console.series.series_screens import CHARTS
from issuer.http.fields import path_id
from issuer.http.operations import Operation, RequestContext
from issuer.ids import parse_uuid
from issuer.operators.role import Role
from issuer.pools.overview import BatchTotal, read_pool_totals, read_totals
from issuer.reports.report import REDEMPTIONS
from issuer.storage.postgres import unavailable_translated

PATH: Final = "/console/batches"
PAGE_SIZE: Final = 25
_LIST: Final = ConsolePage("batches/list.html")
_SHOW: Final = ConsolePage("batches/batch.html", charts=True, scripts=(CHARTS,))


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as a screen shows it. `state`: a word and the class of its badge."""

    batch: Batch
    total: int
    issued: int | None
    quarantined: int
    state: tuple[str, str]
    rules: str

    @classmethod
    def of(cls, batch: Batch, figures: BatchTotal, quarantined: int = 0) -> BatchView:
        state = batch_state(batch, total=figures.total, issued=figures.issued)
        return cls(batch, figures.total, figures.issued, quarantined, state, show_rules(batch.rules))


async def get_list(context: RequestContext) -> Response:
    visit = await open_console(context)
    stores, client_id = context.services.stores, visit.client_id
    cursor = context.request.query_params.get("cursor")
    page = await list_batches(stores.postgres, client_id=client_id, limit=PAGE_SIZE, cursor=cursor)
    totals = await read_totals(stores, [batch.id for batch in page.items], client_id=client_id)
    views = [BatchView.of(batch, totals[batch.id]) for batch in page.items]
    return _LIST.response(visit, page=page, views=views, is_first=cursor is None, may_change=visit.may(Role.OPERATOR))


async def open_batch(context: RequestContext, role: Role = Role.VIEWER) -> tuple[ConsoleVisit, Batch]:
    """Return the visit, and the batch of its path. Raises AnsweredError, which leads to the campaign, for one of it."""
    visit = await open_console(context, role)
    postgres, batch_id = context.services.stores.postgres, path_id(context.request, "batch_id")
    batch = await find_batch(postgres, batch_id, client_id=visit.client_id)
    with suppress(CampaignNotFoundError):
        await find_campaign(postgres, batch_id, client_id=visit.client_id)
        raise AnsweredError(visit.redirect(f"{CAMPAIGNS}/{batch_id}"))
    return visit, batch


async def get_batch(context: RequestContext) -> Response:
    visit, batch = await open_batch(context)
    stores, client_id, batch_id = context.services.stores, visit.client_id, batch.id
    totals = await read_totals(stores, [batch_id], client_id=client_id)
    stock = await read_pool_totals(stores, batch_id, client_id=client_id)
    jobs = await list_jobs(stores.postgres, batch_id, client_id=client_id)
    view = BatchView.of(batch, totals[batch_id], sum(pool.quarantined for pool in stock))
    return _SHOW.response(
        visit, view=view, batch=batch, stock=stock, pools=totals[batch_id].pools, jobs=jobs, path=f"{PATH}/{batch_id}",
        is_busy=any(not job.finished for job in jobs), may_change=visit.may(Role.OPERATOR) and not batch.expired,
        may_export=visit.may(Role.OPERATOR),
    )  # fmt: skip


async def get_redemptions(context: RequestContext) -> Response:
    """Stream the redemptions of one batch as a file, with their codes: the audit log keeps who had it.

    It is the report of the API, whose query this has.
    """
    visit = await open_console(context, Role.OPERATOR)
    postgres, query = context.services.stores.postgres, context.request.query_params
    batch_id = parse_uuid(query.get("batch_id", ""))
    if batch_id is None:
        raise BatchNotFoundError("no batch found")
    await find_batch(postgres, batch_id, client_id=visit.client_id)
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        await audit.record(
            connection, actor=visit.actor, action="redemptions.export", subject=f"batch:{batch_id}", detail=dict(query)
        )
    return await get_report(visit.context, REDEMPTIONS)


OPERATIONS: Final = (
    Operation("GET", PATH, get_list, Access.PUBLIC, page=True),
    Operation("GET", "/console/exports/redemptions", get_redemptions, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/{batch_id}", get_batch, Access.PUBLIC, page=True),
)
