"""/console/ledger: reconcile now, what the last run has found, and dead letters with their retry."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.ledger.dead_letters import page_of_dead_letters, retry_dead_letters
from issuer.operators.role import Role
from issuer.reconciliation.runs import last_run, list_runs, request_run

PATH: Final = "/console/ledger"
_PAGE: Final = ConsolePage("ledger/ledger.html")
SHOWN_RUNS: Final = 5
SHOWN_LETTERS: Final = 50


async def get_ledger(context: RequestContext) -> Response:
    visit = await open_console(context, unbound=True)
    postgres = context.services.stores.postgres
    cursor = context.request.query_params.get("cursor")
    runs = (await list_runs(postgres, limit=SHOWN_RUNS)).items
    open_run = next((run for run in runs if run.finished_at is None), None)
    if open_run is None and context.request.headers.get("hx-request") == "true":
        # The page waited for the run: everything on it is new.
        return visit.finish(Response(headers={"hx-refresh": "true"}))
    return _PAGE.response(
        visit, runs=runs, open_run=open_run,
        last=await last_run(postgres), letters=await page_of_dead_letters(postgres, limit=SHOWN_LETTERS, cursor=cursor),
        is_first=cursor is None, may_act=visit.may(Role.OPERATOR),
    )  # fmt: skip


async def post_reconcile(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    await visit.form()
    await request_run(context.services.stores.postgres, actor=visit.actor)
    return visit.redirect(PATH)


async def post_retry(context: RequestContext) -> Response:
    """Try again to record one dead letter, or all of them."""
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    given = (await visit.form()).get("id")
    if given is not None and not (given.isascii() and given.isdigit() and len(given) < 19):
        raise invalid("id must be the id of a dead letter")
    only = None if given is None else int(given)
    retried = await retry_dead_letters(context.services.stores.postgres, only_id=only, actor=visit.actor)
    notice = f"{retried.resolved:,} recorded."
    if retried.reasons:
        first = next(iter(retried.reasons.values()))
        notice += f" {len(retried.reasons):,} could not be recorded: {first}"
    return visit.redirect(PATH, notice)


OPERATIONS: Final = (
    Operation("GET", PATH, get_ledger, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/reconcile", post_reconcile, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/retry", post_retry, Access.PUBLIC, page=True),
)
