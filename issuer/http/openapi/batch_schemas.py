"""JSON Schemas of batches, their rules, stock and redemptions."""

from __future__ import annotations

from typing import Final

from issuer.batches.rules import MAX_DAYS, MAX_LIMITS, MAX_REDEMPTIONS, MAX_SECONDS
from issuer.http.openapi.shapes import (
    ATTRIBUTES,
    CLIENT,
    CLIENT_NAME,
    CODE,
    CUSTOMER_TEXT,
    INSTANT,
    NAME,
    RATES,
    UUID,
    Schema,
    count,
    described,
    nullable,
    ref,
    shape,
    unsure_count,
    whole,
)

_STARTS_AT: Final = described(nullable(INSTANT), "Start of redemptions; null: at once")
_ENDS_AT: Final = described(nullable(INSTANT), "End of redemptions; null: never")
_LIMIT: Final = shape(
    {
        "max": {
            "type": "integer", "minimum": 1, "maximum": MAX_REDEMPTIONS, "description": "Redemptions of a customer",
        },
        "seconds": {
            "type": "integer", "minimum": 1, "maximum": MAX_SECONDS, "description": "Length of the sliding window",
        },
    }
)  # fmt: skip
_RULES: Final = shape(
    {
        "maxpercustomer": whole(0, MAX_REDEMPTIONS, "Most redemptions of a customer within `timelimit`; 0: unlimited"),
        "timelimit": whole(0, MAX_DAYS, "Length of the sliding window in days; 0: indefinite"),
        "limits": {
            "type": ["array", "null"],
            "maxItems": MAX_LIMITS,
            "items": ref("Limit"),
            "description": "Further limits; all of them apply",
        },
    },
    optional=("maxpercustomer", "timelimit", "limits"),
)
_SHOWN_RULES: Final = shape(
    {
        "maxpercustomer": count("Most redemptions of a customer within `timelimit`; 0: unlimited"),
        "timelimit": count("Length of the sliding window in days; 0: indefinite"),
        "limits": {"type": "array", "items": ref("Limit"), "description": "Further limits; all of them apply"},
    },
    optional=("limits",),
)
_LISTED: Final[dict[str, Schema]] = {
    "id": UUID,
    "name": NAME,
    "rules": ref("ShownRules"),
    "expired": {"type": "boolean", "description": "The batch was ended, or `ends_at` has passed"},
}
_BATCH: Final[dict[str, Schema]] = {
    **_LISTED,
    "starts_at": _STARTS_AT,
    "ends_at": _ENDS_AT,
    "paused": {"type": "boolean", "description": "Redemptions are refused until this is false"},
    "created_at": INSTANT,
}
_FIELDS: Final[dict[str, Schema]] = {
    "name": NAME,
    "rules": described(nullable(ref("Rules")), "Limits per customer; null: none"),
    "starts_at": _STARTS_AT,
    "ends_at": _ENDS_AT,
}

BATCHES: Final[dict[str, Schema]] = {
    "Limit": _LIMIT,
    "Rules": _RULES,
    "ShownRules": _SHOWN_RULES,
    "ListedBatch": shape(_LISTED),
    "Batch": shape(_BATCH),
    "BatchWithStock": shape(
        {**_BATCH, "stock": {"type": "array", "items": ref("Stock"), "description": "One entry per client"}}
    ),
    "NewBatch": shape(
        {
            "id": described(nullable(UUID), "Chosen by the caller; null: a random one"),
            **_FIELDS,
            "client": described(nullable(CLIENT), "A client that sees the batch before it has codes: a text or a UUID"),
            "client_id": described(nullable(CLIENT), "The same as `client`"),
        },
        optional=("id", "rules", "starts_at", "ends_at", "client", "client_id"),
    ),
    "BatchChange": shape(
        {
            **_FIELDS,
            "paused": {"type": "boolean", "description": "true: refuse redemptions; false: allow them again"},
            "expired": {"type": "boolean", "description": "true ends the batch permanently"},
        },
        optional=(*_FIELDS, "paused", "expired"),
    ),
    "Stock": shape(
        {
            "client_id": UUID,
            "client_name": CLIENT_NAME,
            "total": count("Codes of the client in this batch"),
            "in_redis": unsure_count("Codes loaded into Redis and not issued yet"),
            "issued": unsure_count("Seq of the last issued code: ledger + backlog + quarantined + dead_letters"),
            "ledger": count("Issued codes that are recorded in the ledger"),
            "backlog": unsure_count("Issued codes that are not in the ledger yet"),
            "quarantined": count("Codes that may have been issued by a Redis whose data were lost"),
            "dead_letters": count("Issued codes whose event could not be recorded"),
            **RATES,
        }
    ),
    "LedgerEntry": shape(
        {
            "redemption_id": described(UUID, "Derived from the batch and the code"),
            "batch_id": UUID,
            "batch_name": NAME,
            "client_id": UUID,
            "client_name": CLIENT_NAME,
            "seq": count("Position of the code in its pool, from 1"),
            "code": CODE,
            "customer_id": described(nullable(UUID), "null: erased, or redeemed without a customer id"),
            "customer": CUSTOMER_TEXT,
            "redeemed_at": INSTANT,
            "attributes": ATTRIBUTES,
        },
        optional=("attributes",),
    ),
}
