"""/console/loyalty: the programs, and the figures of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from starlette.responses import Response

from issuer.clients.registry import client_names
from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.loyalty.requests import program_of
from issuer.http.operations import Operation, RequestContext
from issuer.loyalty.program import ProgramState
from issuer.loyalty.program_store import list_programs
from issuer.loyalty.stats import Period, read_stats

PATH: Final = "/console/loyalty"
ONE: Final = PATH + "/{program:id}"
PAGE_SIZE: Final = 25
SHOWN_DAYS: Final = 14
STATES: Final[dict[ProgramState, tuple[str, str]]] = {
    ProgramState.ACTIVE: ("Active", "good"),
    ProgramState.PAUSED: ("Paused", "warn"),
    ProgramState.ENDED: ("Ended", ""),
}
_LIST: Final = ConsolePage("loyalty/list.html")
_SHOW: Final = ConsolePage("loyalty/program.html")


@dataclass(frozen=True, slots=True)
class ExpiryMonth:
    """Points that expire in a month; `name` None: they never do. `share`: of the largest month, in thousandths."""

    name: str
    points: int | str
    share: int


async def get_list(context: RequestContext) -> Response:
    visit = await open_console(context)
    postgres, cursor = context.services.stores.postgres, context.request.query_params.get("cursor")
    page = await list_programs(postgres, client_id=visit.client_id, limit=PAGE_SIZE, cursor=cursor)
    names = await client_names(postgres, [program.client_id for program in page.items])
    return _LIST.response(visit, page=page, names=names, states=STATES, is_first=cursor is None)


async def get_program(context: RequestContext) -> Response:
    visit = await open_console(context)
    program = await program_of(visit.context)
    stats = await read_stats(context.services.stores.postgres, program, Period.of(None, None))
    rate = stats["redemption_rate"]
    return _SHOW.response(
        visit,
        program=program,
        state=STATES[program.state],
        stats=stats,
        rate=None if rate is None else f"{100 * Decimal(rate):.0f} %",
        months=expiry_months(stats["outstanding"]["by_month"]),
        days=[(date.fromisoformat(day["day"]), day) for day in reversed(stats["days"][-SHOWN_DAYS:])],
        path=f"{PATH}/{program.id}",
    )


def expiry_months(months: Sequence[Mapping[str, Any]]) -> list[ExpiryMonth]:
    """Return the months in which points expire, by their names."""
    most = max((Decimal(month["points"]) for month in months), default=Decimal(0))
    return [
        ExpiryMonth(
            "Never" if month["month"] is None else f"{date.fromisoformat(month['month'] + '-01'):%B %Y}",
            month["points"],
            int(1_000 * Decimal(month["points"]) / most) if most else 0,
        )
        for month in months
    ]


OPERATIONS: Final = (
    Operation("GET", PATH, get_list, Access.PUBLIC, page=True),
    Operation("GET", ONE, get_program, Access.PUBLIC, page=True),
)
