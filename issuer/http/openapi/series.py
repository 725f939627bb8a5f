"""Time series in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.parts import OPERATOR, ok, operation, path_parameter
from issuer.http.openapi.shapes import CLIENT, INSTANT, UUID, Schema, described, ref, shape
from issuer.series.reading import GRIDS, SeriesSpan

_TAG: Final = "operating"
_SPAN: Final[Schema] = {
    "name": "span",
    "in": "query",
    "description": "How far the series reaches back: by minute, by five minutes, by hour",
    "schema": {"enum": [str(span) for span in SeriesSpan], "default": str(SeriesSpan.DAY)},
}

SERIES: Final[dict[str, Schema]] = {
    "Series": shape(
        {
            "span": {"enum": [str(span) for span in SeriesSpan], "description": "How far it reaches back"},
            "begins_at": described(INSTANT, "The beginning of the first step; the last step is the present one"),
            "step_seconds": {"enum": sorted(grid.step_s for grid in GRIDS.values()), "description": "Length of a step"},
            "outcomes": {
                "type": "object",
                "description": "How often each outcome occurred in each step, by its name in the metrics. `granted` is "
                "always there",
                "additionalProperties": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            },
        }
    )
}
_DESCRIPTION: Final = (
    "Figures to look at, at most some seconds old. A process that is killed has not written its last seconds: the "
    "ledger is what counts."
)


def series_paths() -> dict[str, Schema]:
    """Return the paths of series."""
    of_client = [
        {"name": "client", "in": "query", "description": "Only the pool of this client", "schema": CLIENT},
        {"name": "client_id", "in": "query", "description": "The same, by its id", "schema": CLIENT},
    ]
    answers = {200: ok("The series", ref("Series"))}
    return {
        "/api/v1/series": {
            "get": operation(
                _TAG, "Show what the installation answered", answers, operationId="installationSeries",
                parameters=[_SPAN], description=f"{_DESCRIPTION} {OPERATOR}",
            )
        },
        "/api/v1/batches/{batch_id}/series": {
            "parameters": [path_parameter("batch_id")],
            "get": operation(
                "batches", "Show what a batch answered", answers, 404, operationId="batchSeries",
                parameters=[_SPAN, *of_client], description=_DESCRIPTION,
            ),
        },
        "/api/v1/campaigns/{campaign_id}/series": {
            "parameters": [path_parameter("campaign_id")],
            "get": operation(
                "campaigns", "Show what a campaign answered", answers, 404, operationId="campaignSeries",
                parameters=[_SPAN], description=_DESCRIPTION,
            ),
        },
        "/api/v1/coupons/{coupon_id}/series": {
            "parameters": [path_parameter("coupon_id", UUID)],
            "get": operation(
                "coupons", "Show what a coupon answered", answers, 404, operationId="couponSeries",
                parameters=[_SPAN], description=_DESCRIPTION,
            ),
        },
    }  # fmt: skip
