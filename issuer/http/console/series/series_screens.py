"""What the charts of the console draw: series, as JSON for a signed-in browser."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.http.admin.series import (
    get_batch_series,
    get_campaign_series,
    get_coupon_series,
    get_installation_series,
)
from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.operations import Handler, Operation, RequestContext
from issuer.http.pages.assets import Asset

CHARTS: Final = Asset("issuer.http.console.series", "charts.js")
"""The script of a page that imports console/series/chart.html."""


def _shown(get_series: Handler, *, unbound: bool = False) -> Handler:
    """Return the handler that answers as the route of the API does, to a person who is signed in."""

    async def show(context: RequestContext) -> Response:
        visit = await open_console(context, unbound=unbound)
        return await get_series(visit.context)

    return show


OPERATIONS: Final = tuple(
    Operation("GET", path, handler, Access.PUBLIC, page=True)
    for path, handler in (
        ("/console/series", _shown(get_installation_series, unbound=True)),
        ("/console/batches/{batch_id}/series", _shown(get_batch_series)),
        ("/console/campaigns/{campaign_id}/series", _shown(get_campaign_series)),
        ("/console/coupons/{coupon_id}/series", _shown(get_coupon_series)),
    )
)
