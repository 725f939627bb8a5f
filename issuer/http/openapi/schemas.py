"""The components of the OpenAPI document: JSON Schemas of requests and responses."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.batch_schemas import BATCHES
from issuer.http.openapi.campaign_schemas import CAMPAIGNS
from issuer.http.openapi.clients import CLIENTS
from issuer.http.openapi.code_schemas import CODES
from issuer.http.openapi.coupon_schemas import COUPONS
from issuer.http.openapi.fealty import FEALTY
from issuer.http.openapi.finding import FINDING
from issuer.http.openapi.hooks import HOOKS
from issuer.http.openapi.keys import KEYS
from issuer.http.openapi.loyalty_cards import CARDS
from issuer.http.openapi.loyalty_schemas import FIGURE, LOYALTY
from issuer.http.openapi.operators import OPERATORS
from issuer.http.openapi.reconciliations import RECONCILIATIONS
from issuer.http.openapi.recoveries import RECOVERIES
from issuer.http.openapi.rewards import REWARD_SCHEMAS
from issuer.http.openapi.series import SERIES
from issuer.http.openapi.shapes import (
    ATTRIBUTES,
    BATCH,
    CLIENT,
    CODE,
    GIVEN_ID,
    INSTANT,
    UUID,
    Schema,
    count,
    described,
    nullable,
    page,
    shape,
)
from issuer.http.problems.problem import TITLES
from issuer.storage.server_watch import Stop

_STATE: Final[Schema] = {"enum": ["ready", "not ready"], "description": "Whether it can be used now"}
_LAG: Final[Schema] = {"type": ["number", "null"], "minimum": 0}

_WORKER: Final = shape(
    {
        "seen_at": described(nullable(INSTANT), "The last heartbeat of any worker"),
        "seen_seconds_ago": described(_LAG, "Seconds since that heartbeat; null: there was none"),
        "lag_events": described(_LAG, "Events that are not in the ledger yet"),
        "lag_seconds": described(_LAG, "Age of the oldest of them"),
    }
)

COMPONENTS: Final[dict[str, Schema]] = {
    "Problem": {
        **shape(
            {
                "type": {
                    "type": "string", "format": "uri-reference", "description": "Where `/docs` lists this `code`",
                },
                "title": {"type": "string", "description": "The title of the `code`"},
                "status": {
                    "type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status of the answer",
                },
                "detail": {"type": "string", "description": "A message for people; its wording may change"},
                "error": {"type": "string", "description": "A plain string that integrations compare with"},
                "code": {
                    "enum": sorted(TITLES),
                    "x-titles": TITLES,
                    "description": "A stable name whose meaning never changes",
                },
                "retry_at": described(INSTANT, "When the limit admits the customer again"),
                "batch_id": described(UUID, "The batch that was created although the request failed"),
                "batch_ids": {"type": "array", "items": UUID, "description": "The open batches of this name"},
                "program_ids": {"type": "array", "items": UUID, "description": "The programs of this name"},
                "member_id": described(UUID, "The member that has this ref or e-mail"),
                "available": described(FIGURE, "Points that can be spent"),
                "required": described(FIGURE, "Points that were asked for"),
                "debt": described(FIGURE, "The debt, while which nothing can be spent"),
                "job_id": described(UUID, "The job that failed"),
                "length_needed": {
                    "type": "integer", "minimum": 1, "description": "A code length that provides enough codes",
                },
            },
            optional=(
                "retry_at", "batch_id", "batch_ids", "program_ids", "member_id", "available", "required", "debt",
                "job_id", "length_needed",
            ),
        ),
        "description": "An error as problem details (RFC 9457)",
    },
    "RedemptionRequest": shape(
        {
            "batch": nullable(BATCH),
            "batch_id": nullable(UUID),
            "client": nullable(CLIENT),
            "client_id": nullable(CLIENT),
            "customer": described(nullable(GIVEN_ID), "The customer: a text of the caller's own, or a UUID"),
            "customer_id": described(nullable(GIVEN_ID), "The same as `customer`"),
        },
        optional=("batch", "batch_id", "client", "client_id", "customer", "customer_id"),
    ),
    "Redemption": shape(
        {
            "redemption_id": described(UUID, "Derived from the batch and the code"),
            "code": CODE,
            "batch_id": UUID,
            "redeemed_at": INSTANT,
            "attributes": ATTRIBUTES,
        },
        optional=("attributes",),
    ),
    "Redeem": shape(
        {
            "batchid": UUID,
            "clientid": described(nullable(GIVEN_ID), "The client: that of the key, or the default one, if absent"),
            "customerid": GIVEN_ID,
        },
        optional=("clientid",),
        closed=False,
    ),
    "Redeemed": shape({"code": CODE, "attributes": ATTRIBUTES}, optional=("attributes",)),
    **COUPONS,
    **FEALTY,
    **LOYALTY,
    **HOOKS,
    **KEYS,
    **OPERATORS,
    **RECOVERIES,
    **SERIES,
    **FINDING,
    **RECONCILIATIONS,
    **REWARD_SCHEMAS,
    **CARDS,
    **CLIENTS,
    **BATCHES,
    **CAMPAIGNS,
    **CODES,
    "Erasure": shape(
        {
            "redemptions": count("Redemptions whose customer id was erased"),
            "consumptions": count("Consumptions whose customer id was erased"),
            "batches": count("Batches and coupons whose facts named the customer"),
            "anomalies": count("Anomalies whose customer id was erased"),
            "dead_letters": count("Dead letters that still contain the id"),
        }
    ),
    "AuditEntry": shape(
        {
            "id": count("Position in the audit trail, from 1 without gaps"),
            "at": described(INSTANT, "When it was done"),
            "actor": {"type": "string", "description": "An API key or a command line user", "examples": ["key:1:shop"]},
            "action": {"type": "string", "description": "What was done", "examples": ["batch.create"]},
            "subject": {"type": "string", "description": "The object that was changed"},
            "detail": {"type": "object", "description": "The values that were set"},
            "hash": {
                "type": "string",
                "pattern": "^[0-9a-f]{64}$",
                "description": "SHA-256 over the hash of the entry before and the content of this one",
            },
        }
    ),
    "Alive": shape({"status": {"const": "alive", "description": "The process answers"}}),
    "Readiness": shape(
        {
            "status": _STATE,
            "redis": _STATE,
            "postgres": _STATE,
            "registration": {"type": "string", "description": "`ready`, or why this process issues nothing yet"},
            "api_keys": described(_STATE, "Whether the process has loaded the API keys"),
            "stops": {
                "type": "array",
                "items": {"enum": [str(stop) for stop in Stop]},
                "description": "Why nothing is issued although Redis answers: its clock cannot be right, its eviction"
                " policy may delete codes, or keys that it lost are being rebuilt",
            },
            "worker": described(_WORKER, "The worker, which records redemptions in the ledger"),
            "incident": {
                "type": ["string", "null"],
                "description": "What only an operator can resolve. Codes are issued until the backlog is full",
            },
        }
    ),
    "Health": shape(
        {
            "status": {"enum": ["healthy", "unhealthy"], "description": "Whether Redis and Postgres are available"},
            "message": {"type": "string", "description": "The same for people"},
        }
    ),
    "BatchPage": page("Batch"),
    "CampaignPage": page("Campaign"),
    "IssuedCodePage": page("IssuedCode"),
    "LedgerPage": page("LedgerEntry"),
    "CodePage": page("CodePlace"),
    "AuditPage": page("AuditEntry"),
}  # fmt: skip
