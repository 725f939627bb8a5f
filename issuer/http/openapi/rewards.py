"""Rewards, purchases, transfers and merges in the OpenAPI document: their routes and schemas."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.loyalty import DRY_RUN, MEMBER, MEMBER_PARAMETER, PROGRAM_PARAMETER, PROGRAMS
from issuer.http.openapi.loyalty_schemas import FIGURE, GIVEN_POINTS
from issuer.http.openapi.parts import PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import (
    ATTRIBUTES,
    GIVEN_ID,
    INSTANT,
    NAME,
    UUID,
    Schema,
    absent_or_null,
    described,
    nullable,
    page,
    ref,
    shape,
)
from issuer.loyalty.bounds import MAX_REASON

_REWARD_NAME: Final[Schema] = {**NAME, "description": "Its name, for people", "examples": ["A mug"]}
_COST: Final = described(GIVEN_POINTS, "What a purchase takes: points, or an amount in the currency of the program")
_BATCH: Final = {
    "batch": described(NAME, "Name or id of a batch of codes, in which the client of the program has codes"),
    "batch_id": described(UUID, "Its id"),
}
_TIMES: Final = {
    "starts_at": described(INSTANT, "From when it can be taken; null: at once"),
    "ends_at": described(INSTANT, "Until when it can be taken, exclusive; null: without a limit"),
}
_REASON: Final[Schema] = {"type": ["string", "null"], "maxLength": MAX_REASON, "description": "Why, for the entries"}
_MOVED: Final = shape({"member": UUID}, closed=False)

REWARD_SCHEMAS: Final[dict[str, Schema]] = {
    "Reward": shape(
        {
            "id": UUID,
            "program_id": described(UUID, "Id of the program"),
            "name": described(NAME, "Its name"),
            "cost": described(FIGURE, "What a purchase takes"),
            "batch_id": described(UUID, "Id of the batch whose codes it issues"),
            "starts_at": described(nullable(INSTANT), "From when it can be taken"),
            "ends_at": described(nullable(INSTANT), "Until when, exclusive"),
            "available": {"type": "boolean", "description": "Whether it can be taken now, as far as its times say"},
            "created_at": described(INSTANT, "When it was created"),
        }
    ),
    "RewardPage": page("Reward"),
    "NewReward": shape(
        {"name": _REWARD_NAME, "cost": _COST, **absent_or_null(_BATCH), **absent_or_null(_TIMES)},
        optional=("batch", "batch_id", "starts_at", "ends_at"),
    ),
    "RewardChange": shape(
        {"name": _REWARD_NAME, "cost": _COST, **absent_or_null(_BATCH), **absent_or_null(_TIMES)},
        optional=("name", "cost", "batch", "batch_id", "starts_at", "ends_at"),
    ),
    "NewPurchase": shape({"reward": described(UUID, "Id of the reward")}),
    "Purchase": shape(
        {
            "id": UUID,
            "reward_id": described(UUID, "Id of the reward"),
            "batch_id": described(UUID, "Id of the batch of its code"),
            "points": described(FIGURE, "What it took"),
            "state": {"enum": ["debited", "done", "undone"], "description": "`debited`: it is being settled"},
            "code": {"type": ["string", "null"], "description": "The code; null: none was issued"},
            "attributes": described(ATTRIBUTES, "What was loaded with the code, if anything"),
            "refusal": {"type": ["string", "null"], "description": "Why it was undone; null: it was not"},
            "created_at": described(INSTANT, "When the points were taken"),
            "settled_at": described(nullable(INSTANT), "When it was done or undone"),
        },
        optional=("attributes",),
    ),
    "PurchasePage": page("Purchase"),
    "NewTransfer": shape(
        {
            "from": described(GIVEN_ID, "Id or ref of the member that has the points"),
            "to": described(GIVEN_ID, "Id or ref of the member that gets them"),
            "points": GIVEN_POINTS,
            "reason": _REASON,
        },
        optional=("reason",),
    ),
    "Transfer": shape(
        {
            "id": UUID,
            "points": described(FIGURE, "The points"),
            "from": described(_MOVED, "The source, with its balance after it"),
            "to": described(_MOVED, "The target, with its balance after it"),
        }
    ),
    "NewMerge": shape(
        {"into": described(GIVEN_ID, "Id or ref of the member that stays"), "reason": _REASON}, optional=("reason",)
    ),
    "Merge": shape(
        {
            "id": described(UUID, "Id of the member that stays"),
            "merged": described(UUID, "Id of the member that now resolves to it"),
            "moves": {
                "type": "array",
                "items": shape({"id": UUID, "program_id": described(UUID, "Id of the program")}),
                "description": "What was moved: one for each program in which the merged member had an account",
            },
            "balance": described(nullable(ref("Balance")), "Of the member that stays, in the program of the path"),
        }
    ),
}


def reward_paths() -> dict[str, Schema]:
    """Return the paths of rewards, purchases, transfers and merges."""
    return {
        PROGRAMS + "/{program}/rewards": {
            "parameters": [PROGRAM_PARAMETER],
            "get": _operation("List rewards", "listRewards", {200: ok("A page, oldest first", ref("RewardPage"))},
                              "Those that have ended, too. " + _ANY, parameters=PAGED),
            "post": _operation("Create a reward", "createReward", {201: ok("The reward", ref("Reward"))},
                               "What a member may take in which time is the rules of the batch.", "NewReward"),
        },
        PROGRAMS + "/{program}/rewards/{reward_id}": {
            "parameters": [PROGRAM_PARAMETER, path_parameter("reward_id")],
            "get": _operation("Show a reward", "showReward", {200: ok("The reward", ref("Reward"))}, _ANY),
            "patch": _operation("Change a reward", "changeReward", {200: ok("The reward", ref("Reward"))},
                                "Purchases that were begun keep cost and batch.", "RewardChange"),
        },
        MEMBER + "/purchases": {
            "parameters": [PROGRAM_PARAMETER, MEMBER_PARAMETER],
            "get": _operation("List purchases", "listPurchases",
                              {200: ok("A page, newest first", ref("PurchasePage"))}, _ANY, parameters=PAGED),
            "post": _operation("Buy a reward", "buyReward", {201: ok("The purchase with its code", ref("Purchase"))},
                               _BUYING, "NewPurchase", 410),
        },
        PROGRAMS + "/{program}/transfers": {
            "parameters": [PROGRAM_PARAMETER],
            "post": _operation("Transfer points", "transferPoints", {201: ok("The transfer", ref("Transfer"))},
                               "The points keep their expiry. Refused while the source has debt; the target's debt "
                               "is paid first. " + _TILL, "NewTransfer"),
        },
        MEMBER + "/merge": {
            "parameters": [PROGRAM_PARAMETER, MEMBER_PARAMETER],
            "post": _operation("Merge a member into another one", "mergeMember", {200: ok("The merge", ref("Merge"))},
                               "In all programs of the client: points, pending points, debt, lifetime, orders and "
                               "cards. Both histories stay. 409 `holds_open`, `purchase_in_progress` and "
                               "`members_merged` change nothing.", "NewMerge"),
        },
    }  # fmt: skip


_TILL: Final = "Requires the scope `redeem`."
_ANY: Final = "Requires the scope `redeem` or `admin`."
_BUYING: Final = (
    "The code is issued to the member's ref, or to its id without one. A refusal restores the points: 409 "
    "`reward_sold_out`, 403 `limit_reached` with `retry_at`, and what a redemption from the batch is refused with. "
    "After a 503 the purchase is settled in the background; the same Idempotency-Key gets its code. " + _TILL
)


def _operation(
    summary: str, operation_id: str, answers: dict[int, Schema], description: str, name: str = "", *errors: int,
    **more: Any,
) -> Schema:  # fmt: skip
    """Return an operation; `name`: the schema of its body, which makes it a write."""
    if name:
        more |= {"requestBody": body(name), "parameters": [DRY_RUN]}
    # Several clients may have a program of the name that the path has.
    written = (403, 422) if name else ()
    return operation(
        "loyalty",
        summary,
        answers,
        404,
        409,
        *written,
        *errors,
        operationId=operation_id,
        description=description,
        **more,
    )
