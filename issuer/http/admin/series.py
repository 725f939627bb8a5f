"""Time series: what the installation, a batch, a campaign or a coupon has answered, by outcome and step."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from issuer.batches.store import find_batch
from issuer.campaigns.store import find_campaign
from issuer.coupons.store import find_coupon_by_id
from issuer.http.auth import Access
from issuer.http.fields import json_response, path_id
from issuer.http.naming import CLIENT_FIELDS, named_client
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.series.reading import SeriesSpan, batch_series, installation_series

SPAN: Final = "span"


async def get_installation_series(context: RequestContext) -> Response:
    series = await installation_series(context.services.stores.postgres, requested_span(context))
    return json_response(series.to_json())


async def get_batch_series(context: RequestContext) -> Response:
    """Return the series of a batch, of the pools that the caller may see."""
    postgres, span = context.services.stores.postgres, requested_span(context)
    client_id = await named_client(context, context.request.query_params)
    batch = await find_batch(postgres, path_id(context.request, "batch_id"), client_id=context.caller.client_id)
    return json_response((await batch_series(postgres, batch.id, span, client_id=client_id)).to_json())


async def get_campaign_series(context: RequestContext) -> Response:
    postgres, span = context.services.stores.postgres, requested_span(context)
    campaign_id = path_id(context.request, "campaign_id")
    campaign = await find_campaign(postgres, campaign_id, client_id=context.caller.client_id)
    return json_response((await batch_series(postgres, campaign.id, span)).to_json())


async def get_coupon_series(context: RequestContext) -> Response:
    postgres, span = context.services.stores.postgres, requested_span(context)
    coupon_id = path_id(context.request, "coupon_id")
    coupon = await find_coupon_by_id(postgres, coupon_id, client_id=context.caller.client_id)
    return json_response((await batch_series(postgres, coupon.id, span)).to_json())


def requested_span(context: RequestContext) -> SeriesSpan:
    """Return the span that the query names, by default a day. Raises ProblemError."""
    text = context.request.query_params.get(SPAN, SeriesSpan.DAY)
    try:
        return SeriesSpan(text)
    except ValueError as error:
        raise invalid(f"span must be one of {', '.join(SeriesSpan)}") from error


OPERATIONS: Final = (
    Operation("GET", "/api/v1/series", get_installation_series, Access.OPERATOR, query=(SPAN,)),
    Operation("GET", "/api/v1/batches/{batch_id}/series", get_batch_series, query=(SPAN, *CLIENT_FIELDS)),
    Operation("GET", "/api/v1/campaigns/{campaign_id}/series", get_campaign_series, query=(SPAN,)),
    Operation("GET", "/api/v1/coupons/{coupon_id}/series", get_coupon_series, query=(SPAN,)),
)
