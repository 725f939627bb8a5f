"""The routes of FealTY in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.parts import body, ok, operation
from issuer.http.openapi.shapes import Schema, described, nullable, ref, shape

_EMAIL: Final[Schema] = {"type": "string", "description": "The address of a member", "examples": ["anna@example.org"]}
_POINTS: Final[Schema] = {
    "type": "integer",
    "minimum": -(10**12),
    "maximum": 10**12,
    "description": "Available points; negative: a debt",
}
_MARKETING: Final[Schema] = {"type": "boolean", "description": "Whether the member agreed to marketing"}

FEALTY: Final[dict[str, Schema]] = {
    "FealtyAccount": shape(
        {
            "accountid": {"type": "string", "pattern": "^[0-9a-f]{24}$", "description": "Of the member; never changes"},
            "rewardpoints": _POINTS,
            "email": _EMAIL,
            "marketing": _MARKETING,
        }
    ),
    "FealtyFields": shape(
        {
            "email": _EMAIL,
            "rewardpoints": described(nullable(_POINTS), "Points to set, by an adjustment of the difference"),
            "marketing": nullable(_MARKETING),
        },
        optional=("rewardpoints", "marketing"),
        closed=False,
    ),
    "FealtyForm": shape(
        {
            "email": _EMAIL,
            "points": {"type": "string", "description": "Points to set; empty: none, or as they are"},
            "marketing": {"enum": ["", "true", "false"], "description": "As `true` or `false`; empty: as it is"},
        },
        optional=("points", "marketing"),
        closed=False,
    ),
}

_SECURITY: Final[list[Schema]] = [{"apiKey": []}, {"basic": []}]
_PAGE: Final = "text/html"


def fealty_paths() -> dict[str, Schema]:
    """Return the paths of the predecessor."""
    account = ok("The account; a refusal that the predecessor knows, as a string, with ISSUER_FEALTY=on", _answer())
    every: Schema = {"type": ["array", "null"], "items": ref("FealtyAccount")}
    html = _shown_as_page({"description": "The page"})
    return {
        "/healthz": {
            "get": operation(
                "fealty", "Check that the process runs",
                {200: {"description": "It runs", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                operationId="fealtyHealth", public=True, description="`/readyz` also says whether it can serve.",
            ),
        },
        "/api/v1/account": {
            "get": _operation(
                "Show an account", "showFealtyAccount", {200: account}, 404, requestBody=_fields(),
                description="Its e-mail address is in the body.",
            ),
            "post": _operation(
                "Create an account", "createFealtyAccount", {200: account}, 404, 409, requestBody=_fields(),
                description="The member and its points are there, or neither is.",
            ),
            "put": _operation(
                "Change an account", "changeFealtyAccount", {200: account}, 404, 409, requestBody=_fields(),
                description="Only what is given is changed.",
            ),
            "delete": _operation(
                "Delete an account", "deleteFealtyAccount", {200: account}, 404, requestBody=_fields(),
                description="The member is erased. The entries of the ledger stay.",
            ),
        },
        "/api/v1/accounts/get": {
            "get": _operation(
                "List all accounts", "listFealtyAccounts", {200: ok("All of them", every)}, 404,
                description="In the order of their creation.",
            ),
        },
        "/api/v1/accounts/admin": {
            "get": _operation(
                "Show the admin page", "showFealtyPage", {200: html}, 404,
                description="For people: forms, and the accounts in pages of 50.",
            ),
        },
        **{
            f"/api/v1/account/form/{name}": {
                "post": _operation(
                    f"Send a form of the admin page: {name}", f"{name}FealtyForm", {200: html}, 404, 409, 415,
                    requestBody=body("FealtyForm", "application/x-www-form-urlencoded"),
                    description="Answered with the page and a message.",
                ),
            }
            for name in ("create", "search", "update", "delete")
        },
    }  # fmt: skip


def _answer() -> Schema:
    return {"anyOf": [ref("FealtyAccount"), {"type": "string"}]}


def _fields() -> Schema:
    return body("FealtyFields")


def _operation(summary: str, name: str, answers: dict[int, Schema], *errors: int, **more: Any) -> Schema:
    more["description"] += " Takes Basic credentials with an API key as the password, too."
    described = operation("fealty", summary, answers, *errors, operationId=name, security=_SECURITY, **more)
    if "text/html" in answers[200].get("content", {}):
        described["responses"] = {status: _shown_as_page(answer) for status, answer in described["responses"].items()}
    return described


def _shown_as_page(answer: Schema) -> Schema:
    """Return an answer that is a page where a browser asks."""
    return {**answer, "content": {_PAGE: {"schema": {"type": "string"}}, **answer.get("content", {})}}
