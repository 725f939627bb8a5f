"""JSON Schemas of campaigns and of the coupon service."""

from __future__ import annotations

from typing import Final

from issuer.campaigns.campaign import MAX_CODES_OF_CAMPAIGN, CampaignState
from issuer.http.openapi.code_schemas import CODE_FORMAT
from issuer.http.openapi.shapes import (
    CLIENT,
    CLIENT_NAME,
    CODE,
    INSTANT,
    NAME,
    RATES,
    UUID,
    Schema,
    absent_or_null,
    count,
    described,
    nullable,
    shape,
    unsure_count,
)

_PUBLIC: Final[Schema] = {"type": "boolean", "description": "true: a code may be requested without an API key"}
_STARTS_AT: Final = described(INSTANT, "Codes are issued from this time on")
_FORMAT: Final[dict[str, Schema]] = absent_or_null(CODE_FORMAT)
_TOTAL: Final[Schema] = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_CODES_OF_CAMPAIGN,
    "description": "Number of codes of the campaign",
}
_CAMPAIGN: Final[dict[str, Schema]] = {
    "id": UUID,
    "name": NAME,
    "state": {
        "enum": [*CampaignState],
        "description": "`preparing`: its codes are being generated; `before`: it has not started",
    },
    "total": count("Number of codes of the campaign"),
    "issued": unsure_count("Codes issued"),
    "remaining": unsure_count("Codes not issued yet"),
    **RATES,
    "starts_at": _STARTS_AT,
    "paused": {"type": "boolean"},
    "public": _PUBLIC,
    "client_id": UUID,
    "client_name": CLIENT_NAME,
    "code_format": {"type": "object", "description": "The format of the generated codes"},
    "created_at": INSTANT,
}
_NEW_CAMPAIGN: Final[dict[str, Schema]] = {
    "name": NAME,
    "total": _TOTAL,
    "starts_at": _STARTS_AT,
    "public": _PUBLIC,
    "client": described(nullable(CLIENT), "The owner of the codes: a text or a UUID. A bound key has its own client"),
    "client_id": described(nullable(CLIENT), "The same as `client`"),
    "code_format": described(
        nullable(shape(_FORMAT, optional=tuple(_FORMAT))),
        "The format of the generated codes. By default 10 characters of the alphabet `unambiguous`",
    ),
}
_CHANGE: Final[dict[str, Schema]] = {
    "name": NAME,
    "total": described(_TOTAL, "A larger number of codes; the additional ones are generated"),
    "starts_at": _STARTS_AT,
    "paused": {"type": "boolean", "description": "true: issue no codes; false: issue them again"},
    "public": _PUBLIC,
    "ended": {"const": True, "description": "Ends the campaign permanently"},
}
_COUPON_CAMPAIGN: Final[dict[str, Schema]] = {
    "campaignId": {"type": "string"},
    "name": {"type": "string"},
    "total": count("Number of codes of the campaign"),
    "startTime": {"type": "string", "description": "Codes are issued from this time on"},
    "issuedCodes": {"type": "array", "items": CODE, "description": "Only shown to API keys with the scope `admin`"},
}

CAMPAIGNS: Final[dict[str, Schema]] = {
    "Campaign": shape(_CAMPAIGN),
    "NewCampaign": shape(_NEW_CAMPAIGN, optional=("public", "client", "client_id", "code_format")),
    "CampaignChange": shape(_CHANGE, optional=tuple(_CHANGE)),
    "IssuedCode": shape(
        {
            "seq": count("Position in the order of issue, from 1"),
            "code": CODE,
            "issued_at": described(nullable(INSTANT), "null: the ledger does not contain it yet"),
        }
    ),
    "CreateCampaignRequest": shape(
        {
            "name": NAME,
            "total": _TOTAL,
            "startTime": {"type": "string", "format": "date-time", "description": "Codes are issued from this time on"},
        },
        closed=False,
    ),
    "CreateCampaignResponse": shape({"campaignId": UUID}),
    "CampaignRequest": shape({"campaignId": {"type": ["string", "null"]}}, optional=("campaignId",), closed=False),
    "GetCampaignResponse": shape(_COUPON_CAMPAIGN),
    "IssueCouponResponse": shape(
        {
            "code": {"type": "string", "description": "Empty if `error` is set"},
            "error": {
                "enum": ["", "not found", "not started", "paused", "ended", "sold out"],
                "description": "Why there is no code; empty: there is one",
            },
        }
    ),
    "ConnectError": {
        **shape(
            {
                "code": {"type": "string", "description": "A code of the Connect protocol, such as `unavailable`"},
                "message": {"type": "string", "description": "The `error` of the problem on other routes"},
            },
            optional=("message",),
            closed=False,
        ),
        "description": "An error of the Connect protocol",
    },
}
