"""/till/{program} with a member of staff: find an account, see it, see the own day.

The path of an account has its number, and never what was scanned or typed: paths are in logs and histories.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final
from uuid import uuid4

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.loyalty.till.finding import find_account_id
from issuer.http.loyalty.till.sign_in import show_key_form, show_pin_form
from issuer.http.loyalty.till.till_visit import PATH, TillVisit, open_till, staffed
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.page import LocalizedPage
from issuer.http.problems.problem import status_problem
from issuer.loyalty.purchase_store import list_purchases
from issuer.loyalty.rewards import list_rewards
from issuer.loyalty.till import TillAccount, read_staff_day, read_till_account

ACCOUNT: Final = f"{PATH}/accounts/{{account:int}}"
MAX_BIGINT: Final = 2**63 - 1
SHOWN_CODES: Final = 5
CODES_FOR: Final = timedelta(minutes=5)
"""How long the code of a reward is shown after it was taken."""
_SCAN_PAGE: Final = LocalizedPage("loyalty/till/scan.html", forms=True)
_ACCOUNT_PAGE: Final = LocalizedPage("loyalty/till/account.html", forms=True)
_DAY_PAGE: Final = LocalizedPage("loyalty/till/day.html", forms=True)


async def get_till(context: RequestContext) -> Response:
    till = await open_till(context)
    if till.has_ended:
        return till.redirect()
    if till.key is None:
        return await show_key_form(till)
    if till.staff is None:
        return await show_pin_form(till)
    return till.page(_SCAN_PAGE, unknown=False)


@staffed
async def post_find(till: TillVisit) -> Response:
    form = await till.visit.form()
    account_id = await find_account_id(till.context.services.stores.postgres, till.program, form.get("q", ""))
    if account_id is None:
        return till.page(_SCAN_PAGE, 404, unknown=True)
    return till.redirect(f"/accounts/{account_id}")


@staffed
async def get_account(till: TillVisit) -> Response:
    return await show_account(till, await account_of(till))


async def account_of(till: TillVisit) -> TillAccount:
    """Return the account of the path. Raises ProblemError (404)."""
    account_id = till.context.request.path_params["account"]
    postgres = till.context.services.stores.postgres
    if account_id > MAX_BIGINT:
        raise status_problem(404)
    account = await read_till_account(postgres, till.program, account_id, till.on_duty.id)
    if account is None:
        raise status_problem(404)
    return account


async def show_account(
    till: TillVisit, account: TillAccount, *, error: str = "", at: str = "", status: int = 200
) -> Response:
    """Return the page of an account. `error`: why the form `at` was refused; both by their names there."""
    postgres = till.context.services.stores.postgres
    # A gift card belongs to no member, who alone takes rewards.
    rewards = [] if account.member_id is None else (await list_rewards(postgres, till.program.id)).items
    latest, shown_from = await list_purchases(postgres, [account.id], limit=SHOWN_CODES), datetime.now(UTC) - CODES_FOR
    return till.page(
        _ACCOUNT_PAGE,
        status,
        account=account,
        tier=till.program.terms.tier(account.state.lifetime),
        codes=[one.code for one in latest.items if one.code is not None and one.created_at > shown_from],
        rewards=[reward for reward in rewards if reward.is_available],
        # Each page that is shown may be sent once: the same form sent twice has the same key.
        once=str(uuid4()),
        error=error,
        at=at,
    )


@staffed
async def get_day(till: TillVisit) -> Response:
    """Return what the member of staff booked on one day, by default today."""
    today = datetime.now(till.program.zone).date()
    try:
        day = date.fromisoformat(till.context.request.query_params.get("day", today.isoformat()))
    except ValueError:
        day = today
    day = min(max(day, till.program.created_at.astimezone(UTC).date()), today)
    lines = await read_staff_day(till.context.services.stores.postgres, till.program, day, till.on_duty.id)
    return till.page(_DAY_PAGE, day=day, lines=lines, before=day - timedelta(days=1))


OPERATIONS = (
    Operation("GET", PATH, get_till, Access.PUBLIC, page=True),
    Operation("POST", f"{PATH}/find", post_find, Access.PUBLIC, page=True),
    Operation("GET", ACCOUNT, get_account, Access.PUBLIC, page=True),
    Operation("GET", f"{PATH}/day", get_day, Access.PUBLIC, page=True),
)
