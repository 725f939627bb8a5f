"""Hooks in the OpenAPI document: endpoints of shops, their deliveries, and the schemas of both."""

from __future__ import annotations

from typing import Final

from issuer.http.metrics.hook_outcome import HookOutcome
from issuer.http.openapi.parts import PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import INSTANT, NAME, UUID, Schema, count, described, nullable, page, ref, shape
from issuer.loyalty.bounds import MAX_SOURCE
from issuer.loyalty.hooks.endpoint import MAX_URL, PREVIOUS_HOURS
from issuer.loyalty.hooks.events import ShopKind
from issuer.loyalty.hooks.inbox import InboxState

_HOOKS: Final = "/api/v1/loyalty/programs/{program}/hooks"
_HOOK: Final = _HOOKS + "/{hook}"
_TAG: Final = "loyalty"
_TEXT: Final[Schema] = {"type": "string"}
_SECRET: Final[Schema] = {"type": "string", "minLength": 8, "maxLength": 255}
_GIVEN_SECRET: Final = described(nullable(_SECRET), "What the shop signs with; if absent one is drawn")
_SOURCE: Final = described(
    {"type": "string", "minLength": 1, "maxLength": MAX_SOURCE, "examples": ["shopify"]},
    "Source of the orders: an order of a source earns once. Default: the kind",
)
_URL: Final = described(
    {"type": "string", "maxLength": MAX_URL, "examples": ["https://loyalty.example.com"]},
    "Of Square, which signs it: https:// and your address, or the URL as it is configured there",
)
_KEEPS: Final[Schema] = {"type": "boolean", "description": "Whether orders of people who are no members wait for them"}
_STATES: Final[Schema] = {"enum": [str(state) for state in InboxState], "description": "What has become of it"}
_HOOK_FIELDS: Final[dict[str, Schema]] = {
    "id": UUID,
    "program_id": described(UUID, "The program whose members earn"),
    "kind": {"enum": [str(kind) for kind in ShopKind], "description": "Whose deliveries it takes"},
    "source": _SOURCE,
    "path": described(_TEXT, "The path to which the shop sends"),
    "notification_url": nullable(_URL),
    "keeps_unknown": _KEEPS,
    "created_at": INSTANT,
    "previous_until": described(nullable(INSTANT), "Until when the secret before the last rotation is valid"),
    "revoked_at": described(nullable(INSTANT), "When it was revoked, which is final"),
}

HOOKS: Final[dict[str, Schema]] = {
    "Hook": shape(_HOOK_FIELDS),
    "HookPage": page("Hook"),
    "NewHook": shape(
        {
            "kind": _HOOK_FIELDS["kind"],
            "secret": _GIVEN_SECRET,
            "source": nullable(_SOURCE),
            "notification_url": nullable(_URL),
            "keeps_unknown": _KEEPS,
        },
        optional=("secret", "source", "notification_url", "keeps_unknown"),
    ),
    "HookRotation": shape({"secret": _GIVEN_SECRET}, optional=("secret",)),
    "HookWithSecret": shape(
        {**_HOOK_FIELDS, "secret": described(nullable(_SECRET), "Shown once; null in a repeat of the answer")}
    ),
    "ShopDelivery": shape(
        {
            "id": count("Its id, for the commands"),
            "hook_id": described(UUID, "The hook at which it arrived"),
            "delivery_id": described(_TEXT, "Deliveries with the same id count once"),
            "message_id": described(nullable(_TEXT), "The shop's id of this delivery"),
            "topic": described(_TEXT, "The topic, as the shop names it"),
            "state": _STATES,
            "note": described(_TEXT, "Why, for people"),
            "order_id": described(nullable(_TEXT), "The order that it is about"),
            "member_id": described(nullable(UUID), "The member that it is about"),
            "failures": count("Attempts that failed"),
            "error": described(nullable(_TEXT), "The error of the last attempt"),
            "received_at": described(INSTANT, "When it arrived"),
            "settled_at": described(nullable(INSTANT), "When it was processed"),
            "retry_at": described(nullable(INSTANT), "When it is tried again"),
        }
    ),
    "ShopDeliveryPage": page("ShopDelivery"),
    "DeliveryAnswer": shape(
        {
            "outcome": {"enum": [str(one) for one in HookOutcome], "description": "What has become of the delivery"},
            "note": described(_TEXT, "Why, for people"),
        }
    ),
}


def hook_paths() -> dict[str, Schema]:
    """Return the paths of hooks, and the one to which shops send."""
    program, hook = path_parameter("program", {**NAME, "examples": ["Tea club"]}), path_parameter("hook")
    shown = ok("The hook with its secret", ref("HookWithSecret"))
    state = {"name": "state", "in": "query", "description": "Only deliveries in this state", "schema": _STATES}
    return {
        _HOOKS: {
            "parameters": [program],
            "get": operation(
                _TAG, "List hooks", {200: ok("A page, oldest first", ref("HookPage"))}, 404, 409,
                operationId="listHooks", parameters=PAGED, description="With those that are revoked, without secrets.",
            ),
            "post": operation(
                _TAG, "Create a hook", {201: shown}, 404, 409, operationId="createHook", requestBody=body("NewHook"),
                description="An endpoint to which one shop sends its orders. The secret is shown once.",
            ),
        },
        _HOOK: {
            "parameters": [program, hook],
            "get": operation(
                _TAG, "Show a hook", {200: ok("The hook", ref("Hook"))}, 404, 409, operationId="showHook",
                description="The hook without its secrets.",
            ),
            "delete": operation(
                _TAG, "Revoke a hook", {200: ok("The hook", ref("Hook"))}, 404, 409, operationId="revokeHook",
                description="Its secrets are removed. What has arrived is processed.",
            ),
        },
        _HOOK + "/rotate": {
            "parameters": [program, hook],
            "post": operation(
                _TAG, "Rotate the secret of a hook", {200: shown}, 404, 409, operationId="rotateHookSecret",
                requestBody=body("HookRotation"),
                description=f"The secret before stays valid for {PREVIOUS_HOURS} hours.",
            ),
        },
        _HOOK + "/inbox": {
            "parameters": [program, hook],
            "get": operation(
                _TAG, "List the deliveries of a hook", {200: ok("A page, newest first", ref("ShopDeliveryPage"))}, 404,
                409, operationId="listDeliveries", parameters=[state, *PAGED],
                description="What has arrived and what has become of it, without personal data.",
            ),
        },
        "/hooks/{endpoint}": {
            "parameters": [path_parameter("endpoint")],
            "post": operation(
                _TAG, "Deliver an order", {200: ok("It is stored", ref("DeliveryAnswer"))}, 401, 404, 429,
                operationId="deliverOrder", public=True,
                description="For shops, which sign the body with the secret of the hook: Shopify, WooCommerce and "
                "Square as they document it, any other software as Standard Webhooks does (headers `webhook-id`, "
                "`webhook-timestamp`, `webhook-signature`). At most 1 MB of JSON. 200 means that it is stored.",
            ),
        },
    }  # fmt: skip
