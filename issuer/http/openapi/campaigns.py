"""Campaigns and the coupon service in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.parts import IDEMPOTENCY_KEY, PAGED, body, json_content, ok, operation, path_parameter
from issuer.http.openapi.shapes import Schema, ref
from issuer.http.problems.problem import MEDIA_TYPE

_OPTIONAL: Final[list[Schema]] = [{"apiKey": []}, {}]
"""A public campaign needs no key."""


def campaign_paths() -> dict[str, Schema]:
    created = ok(
        "The campaign", ref("Campaign"), headers={"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
    )
    events = {
        "description": "A stream of server-sent events",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    page: Schema = {"text/html": {"schema": {"type": "string"}}}
    html = {"description": "The page", "content": page}
    unknown = {
        "description": "No public campaign",
        "content": {**page, **json_content(ref("Problem"), MEDIA_TYPE)["content"]},
    }
    one = {"parameters": [path_parameter("campaign_id")]}
    return {
        "/api/v1/campaigns": {
            "get": operation("campaigns", "List campaigns", {200: ok("A page, newest first", ref("CampaignPage"))},
                              operationId="listCampaigns", parameters=PAGED,
                              description="With their counters. A key that is bound to a client sees its campaigns."),
            "post": operation("campaigns", "Create a campaign", {201: created}, 404, 507, operationId="createCampaign",
                               requestBody=body("NewCampaign"),
                               description="The response is sent once all codes are generated and can be issued."),
        },
        "/api/v1/campaigns/{campaign_id}": {
            **one,
            "get": operation("campaigns", "Show a campaign", {200: ok("The campaign", ref("Campaign"))}, 404,
                              operationId="showCampaign", description="With its counters. Those of Redis are null "
                              "while Redis is unavailable."),
            "patch": operation("campaigns", "Change a campaign", {200: ok("The new state", ref("Campaign"))}, 404,
                                409, 507, operationId="changeCampaign", requestBody=body("CampaignChange"),
                                description="The response is sent once the change is in effect, except for `public`, "
                                "which takes up to a second."),
        },
        "/api/v1/campaigns/{campaign_id}/codes": {
            **one,
            "get": operation("campaigns", "List the issued codes", {200: ok("A page, in order", ref("IssuedCodePage"))},
                              404, operationId="issuedCodes", parameters=PAGED,
                              description="In the order of issue, including those that are not in the ledger yet."),
        },
        "/api/v1/campaigns/{campaign_id}/events": {
            **one,
            "get": operation("campaigns", "Stream the counters of a campaign", {200: events}, 401, 403, 404,
                              operationId="campaignEvents", public=True,
                              description="Only a campaign that is not public requires an API key (`admin`)."),
        },
        "/c/{campaign_id}": {
            **one,
            "get": operation("campaigns", "Show the page of a public campaign", {200: html, 404: unknown},
                              operationId="campaignPage", public=True,
                              description="A page that counts down and requests a code, in the language that "
                              "Accept-Language asks for. The 404 of any other campaign is a page, or a problem "
                              "if Accept names JSON alone."),
        },
    }  # fmt: skip


def _method(name: str, request: str, response: str, summary: str, *errors: int, **more: Any) -> Schema:
    """Return a method of the coupon service, called with JSON."""
    post = operation(
        "coupon-service", summary, {200: ok("The response", ref(response))}, 401, 403, 415, 429, 501, 504, *errors,
        operationId=name, requestBody=body(request), **more,
    )  # fmt: skip
    for status in (400, 401, 403, 404, 409, 429, 500, 501, 503, 504):
        if (answer := post["responses"].get(str(status))) is not None:
            answer["content"] = {**json_content(ref("ConnectError"))["content"], **answer.get("content", {})}
    # The Connect library answers 415 without a body.
    del post["responses"]["415"]["content"]
    return {"post": post}


def coupon_service_paths() -> dict[str, Schema]:
    key = {
        **IDEMPOTENCY_KEY,
        "description": "A repeated request with the same key in the same campaign returns the same code, for 24 hours",
    }
    return {
        f"/coupon.CouponService/{name}": method
        for name, method in {
            "CreateCampaign": _method(
                "CreateCampaign", "CreateCampaignRequest", "CreateCampaignResponse", "Create a campaign", 409,
                parameters=[IDEMPOTENCY_KEY | {"description": "A repeat with the same key returns the same campaign"}],
                description="The response is sent once all codes are generated and can be issued.",
            ),
            "GetCampaign": _method(
                "GetCampaign", "CampaignRequest", "GetCampaignResponse", "Show a campaign", 404, security=_OPTIONAL,
                description="Requires the scope `redeem` or `admin`; a public campaign requires no API key.",
            ),
            "IssueCoupon": _method(
                "IssueCoupon", "CampaignRequest", "IssueCouponResponse", "Request a code", parameters=[key],
                security=_OPTIONAL,
                description="Requires the scope `redeem`; a public campaign requires no API key.",
            ),
        }.items()
    }  # fmt: skip
