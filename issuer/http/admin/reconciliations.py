"""/api/v1/reconciliations: runs of the reconciliation, which the worker makes."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, page_query, page_response, path_number
from issuer.http.operations import Operation, RequestContext
from issuer.reconciliation.runs import Run, RunNotFoundError, find_run, list_runs, request_run

PATH: Final = "/api/v1/reconciliations"


async def get_runs(context: RequestContext) -> Response:
    """Return a page of the runs, newest first, without their results."""
    limit, cursor = page_query(context.request)
    page = await list_runs(context.services.stores.postgres, limit=limit, cursor=cursor)
    return page_response(page, Run.to_json)


async def get_run(context: RequestContext) -> Response:
    """Return a run, once it is finished with its result."""
    run_id = path_number(context.request, "run_id")
    if run_id is None:
        raise RunNotFoundError("no run found")
    run = await find_run(context.services.stores.postgres, run_id)
    return json_response(run.to_json() | {"result": run.result})


async def post_run(context: RequestContext) -> Response:
    """Ask the worker for a run. While one is open, the answer is that one."""
    if await context.request.body():
        await json_object(context.request, ())
    act = context.act(_show_requested)
    await request_run(context.services.stores.postgres, actor=context.caller.actor, act=act)
    return act.response


async def _show_requested(run: Run) -> Response:
    return json_response(run.to_json(), 202)


OPERATIONS: Final = (
    Operation("GET", PATH, get_runs, Access.OPERATOR, query=PAGED),
    Operation("POST", PATH, post_run, Access.OPERATOR),
    Operation("GET", PATH + "/{run_id}", get_run, Access.OPERATOR),
)
