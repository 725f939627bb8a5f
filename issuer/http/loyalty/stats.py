"""…/programs/{program}/stats: the figures of a program in a period."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.fields import instant_field, json_response
from issuer.http.loyalty.requests import PROGRAM_PATH, program_of
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.stats import InvalidPeriodError, Period, read_stats

STATS_PATH: Final = PROGRAM_PATH + "/stats"


async def get_stats(context: RequestContext) -> Response:
    program = await program_of(context)
    query = context.request.query_params
    try:
        period = Period.of(instant_field(query, "from"), instant_field(query, "to"))
    except InvalidPeriodError as error:
        raise invalid(str(error)) from error
    return json_response(await read_stats(context.services.stores.postgres, program, period))


OPERATIONS: Final = (Operation("GET", STATS_PATH, get_stats, query=("from", "to")),)
