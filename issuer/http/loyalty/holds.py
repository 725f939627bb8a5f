"""…/members/{member}/holds: points that are reserved, then captured or released."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import instant_field, json_object, path_id
from issuer.http.loyalty.points import short_text
from issuer.http.loyalty.requests import MEMBER_PATH, account_of, carry_out
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.amounts import parse_points
from issuer.loyalty.bounds import MAX_REASON
from issuer.loyalty.operations import CaptureHold, PlaceHold, ReleaseHold
from issuer.loyalty.outcome import Applied
from issuer.loyalty.shown import show_hold

HOLDS_PATH: Final = MEMBER_PATH + "/holds"
HOLD_PATH: Final = HOLDS_PATH + "/{hold_id}"
DEFAULT_HOLD: Final = timedelta(minutes=15)
MAX_HOLD: Final = timedelta(days=30)


async def post_hold(context: RequestContext) -> Response:
    """Reserve points until `expires_at`, for 15 minutes without one."""
    account = await account_of(context)
    values = await json_object(context.request, ("points", "expires_at", "reason"), exact=True)
    account_id, program = account.id, account.program
    hold_id = uuid4()
    place = PlaceHold(
        hold_id, parse_points(values.get("points"), program.unit), _expiry(values),
        short_text(values, "reason", MAX_REASON),
    )  # fmt: skip

    def hold(applied: Applied) -> dict[str, Any]:
        placed = applied.state.hold(hold_id)
        assert placed is not None
        return {"hold": show_hold(placed, program.unit)}

    return await carry_out(context, program, account_id, place, status=201, more=hold)


async def post_capture(context: RequestContext) -> Response:
    """Take points of a hold, all of them without `points`, and release the rest."""
    account = await account_of(context)
    values = await json_object(context.request, ("points",), exact=True) if await context.request.body() else {}
    account_id, program = account.id, account.program
    points = None if values.get("points") is None else parse_points(values["points"], program.unit)
    capture = CaptureHold(path_id(context.request, "hold_id"), points)
    return await carry_out(context, program, account_id, capture)


async def post_release(context: RequestContext) -> Response:
    """Make the points of a hold available again."""
    account = await account_of(context)
    if await context.request.body():
        await json_object(context.request, ())
    release = ReleaseHold(path_id(context.request, "hold_id"))
    return await carry_out(context, account.program, account.id, release)


def _expiry(values: Mapping[str, Any]) -> datetime:
    now = datetime.now(UTC)
    expires_at = instant_field(values, "expires_at") or now + DEFAULT_HOLD
    if not now < expires_at <= now + MAX_HOLD:
        raise invalid(f"expires_at must be in the future, and at most {MAX_HOLD.days} days from now")
    return expires_at


OPERATIONS: Final = (
    Operation("POST", HOLDS_PATH, post_hold, Access.REDEEM, tries=True),
    Operation("POST", HOLD_PATH + "/capture", post_capture, Access.REDEEM, tries=True),
    Operation("POST", HOLD_PATH + "/release", post_release, Access.REDEEM, tries=True),
)
