"""The search in the OpenAPI document: its operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.finding.find import MAX_EVENTS, MAX_TEXT
from issuer.finding.found import EventKind, FoundBy
from issuer.http.openapi.parts import body, ok, operation
from issuer.http.openapi.shapes import (
    ATTRIBUTES,
    CLIENT,
    CLIENT_NAME,
    CODE,
    CUSTOMER_TEXT,
    INSTANT,
    NAME,
    UUID,
    Schema,
    count,
    described,
    nullable,
    ref,
    shape,
)
from issuer.ledger.redemptions import CodeState

_TAG: Final = "operating"
_TEXT: Final[Schema] = {"type": "string"}
_SEQ: Final = count("Position in its pool, from 1; 0: a coupon as a whole")
_NAME: Final[dict[str, Schema]] = {
    "batch_id": UUID,
    "batch_name": NAME,
    "client_id": UUID,
    "client_name": CLIENT_NAME,
    "seq": _SEQ,
    "code": described(_TEXT, "The code, of which at most the last characters are shown"),
    "is_coupon": described({"type": "boolean"}, "Whether the batch is a coupon"),
}

FINDING: Final[dict[str, Schema]] = {
    "FoundName": shape(_NAME),
    "FoundCode": shape(
        {
            **_NAME,
            "state": described(nullable({"enum": [*CodeState]}), "As of `/api/v1/codes/{code}`; null: a coupon"),
        }
    ),
    "FoundMember": shape(
        {
            "id": UUID,
            "client_id": described(UUID, "The client whose member it is"),
            "ref": described(nullable(_TEXT), "The client's own id of it"),
            "erased_at": described(nullable(INSTANT), "When it was erased; null: it is not"),
        }
    ),
    "FoundEvent": shape(
        {
            "at": described(nullable(INSTANT), "When; null: no time is kept"),
            "event": {"enum": [*EventKind], "description": "What happened"},
            "code": described(nullable(ref("FoundName")), "The code or use; null: points or a card of a member"),
            "customer_id": nullable(UUID),
            "customer": CUSTOMER_TEXT,
            "order_id": described(nullable(_TEXT), "The order, as the shop wrote it"),
            "use_id": described(nullable(_TEXT), "Of a coupon: the consumption id"),
            "program": described(nullable(_TEXT), "Name of the program whose points or card it is"),
            "member_id": described(nullable(UUID), "Id of the member"),
            "points": described(nullable(_TEXT), "Points, or an amount in the program's currency"),
            "note": described(_TEXT, "What else is known, for people"),
        }
    ),
    "Found": shape(
        {
            "found_by": {
                "type": "array",
                "items": shape(
                    {
                        "search": {"enum": [*FoundBy], "description": "What the text was taken for"},
                        "found": count("How many it has found"),
                    }
                ),
                "description": "The searches that have found something",
            },
            "codes": {"type": "array", "items": ref("FoundCode"), "description": "The codes and coupons it spells"},
            "members": {"type": "array", "items": ref("FoundMember"), "description": "The members it names"},
            "events": {
                "type": "array",
                "items": ref("FoundEvent"),
                "description": f"The time line, newest first, at most {MAX_EVENTS}",
            },
            "cut": described({"type": "boolean"}, "Whether there is more than is listed"),
        }
    ),
    "Reveal": shape(
        {
            "batch_id": UUID,
            "client_id": described(nullable(CLIENT), "The client; with a bound key its own"),
            "client": described(nullable(CLIENT), "The same, by its name"),
            "seq": _SEQ,
        },
        optional=("client_id", "client"),
    ),
    "Revealed": shape(
        {
            "code": described(nullable(CODE), "Null in the answer to a repeat with its Idempotency-Key"),
            "attributes": ATTRIBUTES,
        },
        optional=("attributes",),
    ),
}


def finding_paths() -> dict[str, Schema]:
    """Return the paths of the search."""
    text = {
        "name": "q", "in": "query", "required": True, "description": "What to look for",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "examples": ["SUMMER-0001"]},
    }  # fmt: skip
    return {
        "/api/v1/find": {
            "get": operation(
                _TAG, "Find what a text names", {200: ok("What was found", ref("Found"))},
                operationId="find", parameters=[text],
                description="A code, a coupon, a customer, an order, the id of a use, a member by its id, `ref`, "
                "e-mail address or phone number, or a card: with everything that has happened to it. Codes are masked.",
            )
        },
        "/api/v1/find/reveal": {
            "post": operation(
                _TAG, "Show a code in full", {200: ok("The code", ref("Revealed"))}, 404, operationId="revealCode",
                requestBody=body("Reveal"), description="The audit log keeps who saw it.",
            )
        },
    }  # fmt: skip
