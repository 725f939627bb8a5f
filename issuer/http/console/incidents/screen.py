"""/console/incidents: every recovery, what it quarantined and why, and the decisions about that."""

from __future__ import annotations

from functools import partial
from typing import Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.console.incidents.last_seen import read_or_recall
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.fields import path_number
from issuer.http.operations import Operation, RequestContext
from issuer.ids import parse_uuid
from issuer.operators.role import Role
from issuer.recovery.history import RecoveryNotFoundError, accept_recovery, find_recovery, list_recoveries
from issuer.recovery.inspection import Verdict
from issuer.recovery.quarantined_codes import name_quarantined
from issuer.recovery.release import release

PATH: Final = "/console/incidents"
_LIST: Final = ConsolePage("incidents/list.html")
_ONE: Final = ConsolePage("incidents/recovery.html")
_CODES: Final = ConsolePage("incidents/codes.html")
PAGE_SIZE: Final = 25
CODES: Final = 100

VERDICTS: Final = {
    Verdict.FIRST: ("First start", "", "Nothing had been issued before."),
    Verdict.RESTART: ("Restart", "good", "The same server came back with all of its data. Nothing is missing."),
    Verdict.EXACT: (
        "Loss, all known", "good",
        "Redis lost data, and everything that customers were answered is known. No code was quarantined for it.",
    ),
    Verdict.BOUNDED: (
        "Loss, codes held", "warn",
        "Redis lost data, and what some processes had answered is not known. Codes that customers may have received "
        "are quarantined: they are not issued again.",
    ),
    Verdict.LOSS: ("Loss", "warn", "Redis lost data."),
}  # fmt: skip
"""What each verdict means: its name, the class of its badge, and a sentence."""


async def get_incidents(context: RequestContext) -> Response:
    visit = await open_console(context, unbound=True, offline=True)
    stores = context.services.stores
    cursor = context.request.query_params.get("cursor")
    read = partial(list_recoveries, stores.postgres, limit=PAGE_SIZE, cursor=cursor)
    seen = await read_or_recall(stores.postgres, f"list {cursor or ''}", read)
    return _LIST.response(
        visit, page=seen.value, as_of=seen.as_of, incident=stores.incarnations.incident, verdicts=VERDICTS,
        is_first=cursor is None,
    )  # fmt: skip


async def get_recovery(context: RequestContext) -> Response:
    visit = await open_console(context, unbound=True, offline=True)
    postgres, epoch = context.services.stores.postgres, _epoch(context)
    seen = await read_or_recall(postgres, f"recovery {epoch}", partial(find_recovery, postgres, epoch))
    return _ONE.response(
        visit, detail=seen.value, one=seen.value.recovery, as_of=seen.as_of, verdicts=VERDICTS,
        may_decide=visit.may(Role.OPERATOR) and seen.as_of is None,
    )  # fmt: skip


async def post_codes(context: RequestContext) -> Response:
    """Name the quarantined codes, page by page: who saw them is in the audit log."""
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    cursor = (await visit.form()).get("cursor") or None
    postgres, epoch = context.services.stores.postgres, _epoch(context)
    page = await name_quarantined(postgres, epoch, actor=visit.actor, limit=CODES, cursor=cursor)
    return _CODES.response(visit, page=page, epoch=epoch)


async def post_accept(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    await visit.form()
    epoch = _epoch(context)
    await accept_recovery(context.services.stores.postgres, epoch, actor=visit.actor)
    return visit.redirect(f"{PATH}/{epoch}", "Accepted: the quarantined codes stay out of stock.")


async def post_release(context: RequestContext) -> Response:
    """Release what this recovery quarantined of one client in a batch. The form asks for the confirmation."""
    visit = await open_console(context, Role.OPERATOR, unbound=True)
    form = await visit.form()
    epoch = _epoch(context)
    batch_id, client_id = parse_uuid(form.get("batch_id", "")), parse_uuid(form.get("client_id", ""))
    if batch_id is None or client_id is None:
        raise RecoveryNotFoundError("no such pool")
    stores = context.services.stores
    released = await release(stores, batch_id, client_id=client_id, epoch=epoch, actor=visit.actor)
    noun = "code is" if released == 1 else "codes are"
    return visit.redirect(f"{PATH}/{epoch}", f"{released:,} {noun} in stock again.")


def _epoch(context: RequestContext) -> int:
    epoch = path_number(context.request, "epoch")
    if epoch is None:
        raise RecoveryNotFoundError("no recovery found")
    return epoch


OPERATIONS: Final = (
    Operation("GET", PATH, get_incidents, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/{epoch}", get_recovery, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/{epoch}/codes", post_codes, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/{epoch}/accept", post_accept, Access.PUBLIC, page=True),
    Operation("POST", PATH + "/{epoch}/release", post_release, Access.PUBLIC, page=True),
)
