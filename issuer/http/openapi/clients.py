"""Clients in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.clients.quotas import MAX_QUOTA
from issuer.http.openapi.parts import OPERATOR, PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import (
    CLIENT,
    COUNT,
    INSTANT,
    NAME,
    UUID,
    Schema,
    count,
    described,
    nullable,
    page,
    ref,
    shape,
    whole,
)
from issuer.ids import MAX_ID

_TEXT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_ID, "examples": ["band-42"]}
_NAME: Final = described(NAME, "For people; not unique")

CLIENTS: Final[dict[str, Schema]] = {
    "Client": shape(
        {
            "id": UUID,
            "text": described(nullable(_TEXT), "The id as the caller gave it; null: it was a UUID"),
            "name": _NAME,
            "created_at": INSTANT,
        }
    ),
    "NewClient": shape(
        {
            "id": described(CLIENT, "A text of the caller's own, or a UUID"),
            "name": described(nullable(NAME), "For people; default: the text. Needed with a UUID"),
        },
        optional=("name",),
    ),
    "ClientChange": shape({"name": _NAME}),
    "Quota": shape(
        {
            "limit": described(nullable(COUNT), "The most that the client may have; null: no limit"),
            "used": count("What counts against it now"),
        }
    ),
    "Quotas": shape(
        {"codes": described(ref("Quota"), "Codes, issued or not"), "batches": described(ref("Quota"), "Batches")}
    ),
    "QuotasChange": shape(
        {
            name: whole(0, MAX_QUOTA, "The most that the client may have; null: no limit")
            for name in ("codes", "batches")
        },
        optional=("codes", "batches"),
    ),
    "ClientPage": page("Client"),
}


def client_paths() -> dict[str, Schema]:
    created = ok(
        "The client", ref("Client"), headers={"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
    )
    return {
        "/api/v1/clients": {
            "get": operation(
                "clients", "List clients", {200: ok("A page, oldest first", ref("ClientPage"))},
                operationId="listClients", parameters=PAGED,
                description="The registered clients. A key that is bound to a client sees that one.",
            ),
            "post": operation(
                "clients", "Register a client", {201: created}, 409, operationId="createClient",
                requestBody=body("NewClient"),
                description="A client that is named by a UUID may have codes without being registered; one that is "
                "named by a text must be registered before. " + OPERATOR,
            ),
        },
        "/api/v1/clients/{client_id}": {
            "parameters": [path_parameter("client_id", CLIENT)],
            "get": operation(
                "clients", "Show a client", {200: ok("The client", ref("Client"))}, 404,
                operationId="showClient", description="A key that is bound to a client sees that one.",
            ),
            "patch": operation(
                "clients", "Rename a client", {200: ok("The client", ref("Client"))}, 404,
                operationId="changeClient", requestBody=body("ClientChange"), description=OPERATOR,
            ),
        },
        "/api/v1/clients/{client_id}/quotas": {
            "parameters": [path_parameter("client_id", CLIENT)],
            "get": operation(
                "clients", "Show the quotas of a client", {200: ok("The quotas", ref("Quotas"))}, 404,
                operationId="showQuotas", description="They count batches and campaigns that have not ended, and "
                "their codes, issued or not. A key that is bound to a client sees its own.",
            ),
            "patch": operation(
                "clients", "Change the quotas of a client", {200: ok("The quotas", ref("Quotas"))},
                operationId="changeQuotas", requestBody=body("QuotasChange"),
                description="What would exceed them is a 403 `quota_exceeded`, and nothing is changed. " + OPERATOR,
            ),
        },
    }  # fmt: skip
