"""API keys in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.access.api_keys import Scope
from issuer.http.openapi.parts import OPERATOR, PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import (
    CLIENT,
    CLIENT_NAME,
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
)

_NAME: Final = described(NAME, "Its purpose; the audit log shows it")
_SCOPES: Final[Schema] = {
    "type": "array",
    "items": {"enum": [str(scope) for scope in Scope]},
    "minItems": 1,
    "description": "What it may be used for; `public` stands alone",
}
_LIMIT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 64, "examples": ["100/s", "6000/m"]}
_RATE: Final = described(nullable(_LIMIT), "Its limit of requests, or `off`; null: the setting applies")
_LOOKUPS: Final = described(nullable(_LIMIT), "Its limit of look-ups of unknown codes; null: the setting applies")
_FIELDS: Final[dict[str, Schema]] = {
    "id": count("Its id, for paths and the audit log"),
    "name": _NAME,
    "scopes": _SCOPES,
    "client_id": described(nullable(UUID), "The client that it is bound to; null: to none"),
    "client_name": CLIENT_NAME,
    "rate_limit": _RATE,
    "failed_lookup_limit": _LOOKUPS,
    "created_at": INSTANT,
    "revoked_at": described(nullable(INSTANT), "When it was revoked, which is final; null: it is valid"),
}
_SECRET: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 255}

KEYS: Final[dict[str, Schema]] = {
    "Key": shape(_FIELDS),
    "KeyPage": page("Key"),
    "NewKey": shape(
        {
            "name": _NAME,
            "scopes": _SCOPES,
            "client": described(nullable(CLIENT), "The client that it is bound to; default: to none"),
            "client_id": described(nullable(CLIENT), "The same, by its id"),
            "rate_limit": _RATE,
            "failed_lookup_limit": _LOOKUPS,
        },
        optional=("client", "client_id", "rate_limit", "failed_lookup_limit"),
    ),
    "KeyWithSecret": shape(
        {**_FIELDS, "secret": described(nullable(_SECRET), "Shown once; null in a repeat of the answer")}
    ),
}


def key_paths() -> dict[str, Schema]:
    """Return the paths of API keys."""
    return {
        "/api/v1/keys": {
            "get": operation(
                "operating", "List API keys", {200: ok("A page, oldest first", ref("KeyPage"))},
                operationId="listKeys", parameters=PAGED,
                description="With those that are revoked, without secrets. " + OPERATOR,
            ),
            "post": operation(
                "operating", "Create an API key", {201: ok("The key with its secret", ref("KeyWithSecret"))}, 404,
                operationId="createKey", requestBody=body("NewKey"),
                description="Every process knows it within a second. The secret is shown once. " + OPERATOR,
            ),
        },
        "/api/v1/keys/{key_id}": {
            "parameters": [path_parameter("key_id", {"type": "integer", "minimum": 1, "maximum": 2**31 - 1})],
            "delete": operation(
                "operating", "Revoke an API key", {200: ok("The key", ref("Key"))}, 404, operationId="revokeKey",
                description="Every process refuses it within a second. A repeat changes nothing. " + OPERATOR,
            ),
        },
    }  # fmt: skip
