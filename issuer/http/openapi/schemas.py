"""The shapes of what goes over HTTP, as JSON Schema: the components of the OpenAPI document."""

from __future__ import annotations

from typing import Final

from issuer.batches.rules import MAX_DAYS, MAX_LIMITS, MAX_REDEMPTIONS, MAX_SECONDS
from issuer.campaigns.campaign import MAX_CODES_OF_CAMPAIGN, CampaignState
from issuer.generating.code_format import MAX_CODES
from issuer.generating.jobs import State
from issuer.generating.unlucky import MAX_WORDS
from issuer.http.openapi.coupon_schemas import COUPONS
from issuer.http.openapi.shapes import (
    CODE,
    COUNT,
    INSTANT,
    NAME,
    UNSURE_COUNT,
    UUID,
    Schema,
    absent_or_null,
    nullable,
    page,
    ref,
    shape,
    whole,
)
from issuer.http.problems.problem import TITLES
from issuer.ledger.redemptions import CodeState

_LIMIT: Final = shape(
    {
        "max": {"type": "integer", "minimum": 1, "maximum": MAX_REDEMPTIONS},
        "seconds": {"type": "integer", "minimum": 1, "maximum": MAX_SECONDS},
    }
)
_RULES: Final = shape(
    {
        "maxpercustomer": whole(0, MAX_REDEMPTIONS, "Codes that one customer may have; 0: no limit"),
        "timelimit": whole(0, MAX_DAYS, "Days in which they count, sliding; 0: for ever"),
        "limits": {
            "type": ["array", "null"],
            "maxItems": MAX_LIMITS,
            "items": ref("Limit"),
            "description": "Further limits, all of which must hold",
        },
    },
    optional=("maxpercustomer", "timelimit", "limits"),
)
_SHOWN_RULES: Final = shape(
    {
        "maxpercustomer": {"type": "integer", "minimum": 0},
        "timelimit": {"type": "integer", "minimum": 0},
        "limits": {"type": "array", "items": ref("Limit")},
    },
    optional=("limits",),
)
_LISTED: Final[dict[str, Schema]] = {
    "id": UUID,
    "name": NAME,
    "rules": ref("ShownRules"),
    "expired": {"type": "boolean"},
}
_BATCH: Final[dict[str, Schema]] = {
    **_LISTED,
    "starts_at": nullable(INSTANT),
    "ends_at": nullable(INSTANT),
    "paused": {"type": "boolean"},
    "created_at": INSTANT,
}
_WANTED: Final[dict[str, Schema]] = {
    "name": NAME,
    "rules": nullable(ref("Rules")),
    "starts_at": nullable(INSTANT),
    "ends_at": nullable(INSTANT),
}
_UPLOADED: Final[dict[str, Schema]] = {
    "message": {"type": "string", "const": "Codes uploaded successfully"},
    "batch_id": UUID,
    "rows": COUNT,
    "loaded": COUNT,
    "duplicates_in_file": COUNT,
    "duplicates_in_batch": COUNT,
    "rejected": COUNT,
    "rejections": {"type": "array", "items": shape({"line": COUNT, "reason": {"type": "string"}})},
}
_FORM: Final[dict[str, Schema]] = {
    "alphabet": {
        "type": "string",
        "minLength": 2,
        "maxLength": 16_384,
        "description": "numeric, alphabetic, alphanumeric, unambiguous, or the characters themselves",
        "default": "unambiguous",
    },
    "check": {"type": "boolean", "description": "The last place holds a check character (Luhn mod N)"},
    "unlucky": {"type": "boolean", "default": True, "description": "Leave out codes with words of the built-in list"},
    "unlucky_words": {
        "type": "array",
        "maxItems": MAX_WORDS,
        "items": {"type": "string", "minLength": 2, "maxLength": 64},
        "description": "Leave out codes with these words, too",
    },
}
_FIXED: Final[Schema] = {"type": "string", "maxLength": 255}
_WITH_LENGTH: Final[dict[str, Schema]] = {
    "length": {"type": "integer", "minimum": 1, "maximum": 255, "default": 12, "description": "Drawn characters"},
    "prefix": _FIXED,
    "suffix": _FIXED,
}
_PATTERN: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": "#",
    "description": "Each # is a drawn character",
    "examples": ["SUMMER-####-####"],
}
_CODES: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_CODES}
_ASKED: Final[dict[str, Schema]] = {
    "client_id": {**UUID, "description": "Whose codes they are; not needed where the batch has one client"},
    "job_id": {**UUID, "description": "An id of your choice: the same request again is the same job"},
    **_FORM,
}
_UNUSED: Final[dict[str, Schema]] = {
    "length": {"type": "null"},
    "prefix": {"enum": [None, ""]},
    "suffix": {"enum": [None, ""]},
}
_OPTIONAL: Final = (*_ASKED, *_WITH_LENGTH)
_ANY_FORM: Final[dict[str, Schema]] = absent_or_null({**_FORM, **_WITH_LENGTH, "pattern": _PATTERN})
_TOTAL: Final[Schema] = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_CODES_OF_CAMPAIGN,
    "description": "Codes in all",
}
_CAMPAIGN: Final[dict[str, Schema]] = {
    "id": UUID,
    "name": NAME,
    "state": {"enum": [*CampaignState]},
    "total": COUNT,
    "issued": UNSURE_COUNT,
    "remaining": UNSURE_COUNT,
    "starts_at": INSTANT,
    "paused": {"type": "boolean"},
    "public": {"type": "boolean", "description": "Anybody may ask for a code, without a key"},
    "client_id": UUID,
    "code_format": {"type": "object"},
    "created_at": INSTANT,
}
_NEW_CAMPAIGN: Final[dict[str, Schema]] = {
    "name": NAME,
    "total": _TOTAL,
    "starts_at": INSTANT,
    "public": {"type": "boolean"},
    "client_id": {**nullable(UUID), "description": "Whose codes they are; for keys that are bound to no client"},
    "code_format": {
        **nullable(shape(_ANY_FORM, optional=tuple(_ANY_FORM))),
        "description": "10 Korean syllables and digits, as far as nothing else is said",
    },
}
_COUPON_CAMPAIGN: Final[dict[str, Schema]] = {
    "campaignId": {"type": "string"},
    "name": {"type": "string"},
    "total": {"type": "integer"},
    "startTime": {"type": "string"},
    "issuedCodes": {"type": "array", "items": CODE, "description": "For keys with the scope `admin` only"},
}
_STATE: Final[Schema] = {"enum": ["ready", "not ready"]}
_LAG: Final[Schema] = {"type": ["number", "null"], "minimum": 0}

COMPONENTS: Final[dict[str, Schema]] = {
    "Problem": {
        **shape(
            {
                "type": {"type": "string", "format": "uri-reference"},
                "title": {"type": "string"},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string"},
                "error": {"type": "string", "description": "What integrations compare with"},
                "code": {"enum": sorted(TITLES), "x-titles": TITLES},
                "retry_at": {**INSTANT, "description": "When the limit lets the customer in again"},
                "batch_id": UUID,
                "job_id": UUID,
                "length_needed": {"type": "integer", "minimum": 1, "description": "The length that would do"},
            },
            optional=("retry_at", "batch_id", "job_id", "length_needed"),
        ),
        "description": "An error as RFC 9457 has it",
    },
    "Redemption": shape({"batchid": UUID, "clientid": UUID, "customerid": UUID}, closed=False),
    "Redeemed": shape({"code": CODE}),
    **COUPONS,
    "Limit": _LIMIT,
    "Rules": _RULES,
    "ShownRules": _SHOWN_RULES,
    "ListedBatch": shape(_LISTED),
    "Batch": shape(_BATCH),
    "BatchWithStock": shape({**_BATCH, "stock": {"type": "array", "items": ref("Stock")}}),
    "NewBatch": shape(_WANTED, optional=("rules", "starts_at", "ends_at")),
    "BatchChange": shape(
        {
            **_WANTED,
            "paused": {"type": "boolean"},
            "expired": {"type": "boolean", "description": "true ends the batch for good"},
        },
        optional=(*_WANTED, "paused", "expired"),
    ),
    "Campaign": shape(_CAMPAIGN),
    "NewCampaign": shape(_NEW_CAMPAIGN, optional=("public", "client_id", "code_format")),
    "CampaignChange": shape(
        {
            "name": NAME,
            "total": {**_TOTAL, "description": "More codes than there are: those that are missing are made"},
            "starts_at": INSTANT,
            "paused": {"type": "boolean"},
            "public": {"type": "boolean"},
            "ended": {"const": True, "description": "Ends the campaign for good"},
        },
        optional=("name", "total", "starts_at", "paused", "public", "ended"),
    ),
    "IssuedCode": shape(
        {
            "seq": COUNT,
            "code": CODE,
            "issued_at": {**nullable(INSTANT), "description": "null: the ledger does not have it yet"},
        }
    ),
    "CreateCampaignRequest": shape(
        {"name": NAME, "total": _TOTAL, "startTime": {"type": "string", "format": "date-time"}}, closed=False
    ),
    "CreateCampaignResponse": shape({"campaignId": UUID}),
    "CampaignRequest": shape({"campaignId": {"type": ["string", "null"]}}, optional=("campaignId",), closed=False),
    "GetCampaignResponse": shape(_COUPON_CAMPAIGN),
    "IssueCouponResponse": shape(
        {
            "code": {"type": "string", "description": "Empty if there is an error"},
            "error": {"enum": ["", "not found", "not started", "paused", "ended", "sold out"]},
        }
    ),
    "ConnectError": {
        **shape({"code": {"type": "string"}, "message": {"type": "string"}}, optional=("message",), closed=False),
        "description": "A failed call, as the Connect protocol has it",
    },
    "Stock": shape(
        {
            "client_id": UUID,
            "total": COUNT,
            "in_redis": UNSURE_COUNT,
            "issued": UNSURE_COUNT,
            "ledger": COUNT,
            "backlog": UNSURE_COUNT,
            "quarantined": COUNT,
            "dead_letters": COUNT,
        }
    ),
    "Upload": {
        "type": "object",
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "batch_name": NAME,
            "rules": {"type": "string", "contentMediaType": "application/json", "description": "Rules as JSON"},
        },
        "required": ["file", "batch_name"],
    },
    "Uploaded": shape(_UPLOADED),
    "Generation": {
        "anyOf": [
            shape(
                {"count": _CODES, "pattern": {"type": "null"}, **absent_or_null({**_ASKED, **_WITH_LENGTH})},
                optional=("pattern", *_OPTIONAL),
            ),
            shape({"count": _CODES, "pattern": _PATTERN, **absent_or_null(_ASKED), **_UNUSED}, optional=_OPTIONAL),
        ]
    },
    "GenerationJob": shape(
        {
            "id": UUID,
            "batch_id": UUID,
            "client_id": UUID,
            "state": {"enum": [*State]},
            "count": COUNT,
            "made": COUNT,
            "format": shape({**_FORM, **_WITH_LENGTH, "pattern": _PATTERN}, optional=(*_WITH_LENGTH, "pattern")),
            "problem": {"type": ["string", "null"], "description": "Why it failed"},
            "warning": {"type": ["string", "null"], "description": "That such codes are guessed easily"},
            "created_at": INSTANT,
            "finished_at": nullable(INSTANT),
        }
    ),
    "LedgerEntry": shape(
        {
            "batch_id": UUID,
            "client_id": UUID,
            "seq": COUNT,
            "code": CODE,
            "customer_id": {**nullable(UUID), "description": "null: erased"},
            "redeemed_at": INSTANT,
        }
    ),
    "CodePlace": shape(
        {
            "batch_id": UUID,
            "batch_name": NAME,
            "client_id": UUID,
            "seq": COUNT,
            "code": CODE,
            "state": {"enum": [*CodeState]},
            "customer_id": nullable(UUID),
            "redeemed_at": nullable(INSTANT),
        }
    ),
    "Erasure": shape(
        {"redemptions": COUNT, "consumptions": COUNT, "batches": COUNT, "anomalies": COUNT, "dead_letters": COUNT}
    ),
    "AuditEntry": shape(
        {
            "id": COUNT,
            "at": INSTANT,
            "actor": {"type": "string"},
            "action": {"type": "string"},
            "subject": {"type": "string"},
            "detail": {"type": "object"},
        }
    ),
    "Alive": shape({"status": {"const": "alive"}}),
    "Readiness": shape(
        {
            "status": _STATE,
            "redis": _STATE,
            "postgres": _STATE,
            "api_keys": _STATE,
            "worker": shape(
                {
                    "seen_at": nullable(INSTANT),
                    "seen_seconds_ago": _LAG,
                    "lag_events": _LAG,
                    "lag_seconds": _LAG,
                }
            ),
        }
    ),
    "Health": shape({"status": {"enum": ["healthy", "unhealthy"]}, "message": {"type": "string"}}),
    "BatchPage": page("Batch"),
    "CampaignPage": page("Campaign"),
    "IssuedCodePage": page("IssuedCode"),
    "LedgerPage": page("LedgerEntry"),
    "CodePage": page("CodePlace"),
    "AuditPage": page("AuditEntry"),
}
