"""Operators of the console in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.parts import OPERATOR, PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import (
    CLIENT,
    CLIENT_NAME,
    INSTANT,
    NAME,
    UUID,
    Schema,
    described,
    nullable,
    page,
    ref,
    shape,
)
from issuer.operators.role import Role

_ROLE: Final[Schema] = {
    "enum": [str(role) for role in Role],
    "description": "`viewer` sees, `operator` also changes batches, codes and points, `admin` also keys and operators",
}
_FIELDS: Final[dict[str, Schema]] = {
    "id": UUID,
    "name": described(NAME, "With which the operator signs in, in any case of its letters"),
    "role": _ROLE,
    "client_id": described(nullable(UUID), "The client that the operator sees; null: every one"),
    "client_name": CLIENT_NAME,
    "initial_until": described(
        nullable(INSTANT), "Until when the first password is valid; null: the operator has chosen another one"
    ),
    "created_at": INSTANT,
    "disabled_at": described(nullable(INSTANT), "When the operator was disabled, which is final; null: not"),
}
_PASSWORD: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 255}

OPERATORS: Final[dict[str, Schema]] = {
    "Operator": shape(_FIELDS),
    "OperatorPage": page("Operator"),
    "NewOperator": shape(
        {
            "name": _FIELDS["name"],
            "role": _ROLE,
            "client": described(nullable(CLIENT), "The client that the operator sees; default: every one"),
            "client_id": described(nullable(CLIENT), "The same, by its id"),
        },
        optional=("client", "client_id"),
    ),
    "OperatorWithPassword": shape(
        {
            **_FIELDS,
            "secret": described(nullable(_PASSWORD), "The password, shown once; null in a repeat of the answer"),
        }
    ),
}


def operator_paths() -> dict[str, Schema]:
    """Return the paths of operators."""
    shown = ok("The operator with a first password", ref("OperatorWithPassword"))
    of_one = [path_parameter("operator_id", UUID)]
    return {
        "/api/v1/operators": {
            "get": operation(
                "operating", "List operators", {200: ok("A page, oldest first", ref("OperatorPage"))},
                operationId="listOperators", parameters=PAGED, description="With those that are disabled. " + OPERATOR,
            ),
            "post": operation(
                "operating", "Create an operator", {201: shown}, 404, 409,
                operationId="createOperator", requestBody=body("NewOperator"),
                description="Who signs in to the console with a password. The first one is shown once, is valid for"
                " 7 days, and is replaced at the first sign-in. " + OPERATOR,
            ),
        },
        "/api/v1/operators/{operator_id}": {
            "parameters": of_one,
            "delete": operation(
                "operating", "Disable an operator", {200: ok("The operator", ref("Operator"))}, 404,
                operationId="disableOperator",
                description="Signs every browser of the operator out. A repeat is a 404. " + OPERATOR,
            ),
        },
        "/api/v1/operators/{operator_id}/reset": {
            "parameters": of_one,
            "post": operation(
                "operating", "Reset the password of an operator", {200: shown}, 404, operationId="resetOperator",
                description="Another first password, which ends a lock and every session. " + OPERATOR,
            ),
        },
    }  # fmt: skip
