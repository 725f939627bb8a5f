"""Clients in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.parts import OPERATOR, PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import CLIENT, INSTANT, NAME, UUID, Schema, described, nullable, page, ref, shape
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
    }  # fmt: skip
