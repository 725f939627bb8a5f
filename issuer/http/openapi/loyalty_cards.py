"""Cards in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.loyalty_schemas import GIVEN_POINTS
from issuer.http.openapi.parts import PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import GIVEN_ID, INSTANT, NAME, UUID, Schema, described, nullable, page, ref, shape
from issuer.loyalty.apple_pass import MEDIA_TYPE
from issuer.loyalty.bounds import MAX_REASON
from issuer.loyalty.card_number import MAX_TYPED
from issuer.loyalty.cards import MAX_CARDS, CardState

_NUMBER: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MAX_TYPED, "examples": ["B5CJ-NFRT-V356"]}
_REASON: Final[Schema] = {"type": ["string", "null"], "maxLength": MAX_REASON, "description": "Why, for people"}
_ANY: Final = "Requires the scope `redeem` or `admin`."
_TILL: Final = "Requires the scope `redeem`."
_TAG: Final = "loyalty"
_CARDS: Final = "/api/v1/loyalty/programs/{program}/cards"
_CARD: Final = _CARDS + "/{number}"
_DRY_RUN: Final[Schema] = {
    "name": "dry_run",
    "in": "query",
    "description": "true: nothing is changed; the answer is what the request would get, with the header Dry-Run",
    "schema": {"type": "boolean", "default": False},
}
_SHOWN: Final[dict[str, Schema]] = {
    "number": described(_NUMBER, "For people, in groups; codes on the card have it without hyphens"),
    "state": {"enum": [*CardState], "description": "blank: of no account yet; gift: of an account without a member"},
    "member_id": described(nullable(UUID), "The member; null: a blank card or a gift card"),
    "run_id": described(UUID, "The request that issued the card, with all others of that request"),
    "issued_at": described(INSTANT, "When it was issued"),
    "revoked_at": described(nullable(INSTANT), "When it was revoked; null: it is valid"),
}

CARDS: Final[dict[str, Schema]] = {
    "Card": shape(_SHOWN),
    "CardWithBalance": shape(
        {**_SHOWN, "balance": described(nullable(ref("Balance")), "Of its account; null: it has none")}
    ),
    "CardPage": page("Card"),
    "IssuedCards": shape(
        {
            "run_id": _SHOWN["run_id"],
            "items": {"type": "array", "items": ref("Card"), "description": "In the order in which they are printed"},
        }
    ),
    "NewCards": shape(
        {
            "count": {"type": "integer", "minimum": 1, "maximum": MAX_CARDS, "description": "How many; default 1"},
            "member": described(nullable(GIVEN_ID), "The member whose cards they are"),
            "amount": described(nullable(GIVEN_POINTS), 'What each gift card is worth, such as "25.00"; default: 0'),
        },
        optional=("count", "member", "amount"),
    ),
    "CardAssignment": shape({"member": described(GIVEN_ID, "The member, by id or ref")}),
    **dict.fromkeys(
        ("CardTopUp", "CardSpend"), shape({"amount": GIVEN_POINTS, "reason": _REASON}, optional=("reason",))
    ),
    "CardRefund": shape(
        {
            "entry": {"type": "string", "description": "Id of the entry of the spend", "examples": ["7-2"]},
            "amount": described(nullable(GIVEN_POINTS), "How much of it; default: what is left"),
            "reason": _REASON,
        },
        optional=("amount", "reason"),
    ),
    "WalletLink": shape({"url": {"type": "string", "format": "uri", "description": "The link"}}),
}


def card_paths() -> dict[str, Schema]:
    """Return the paths of cards."""
    return {**_many(), **_one(), **_value(), **_wallets()}


def _many() -> dict[str, Schema]:
    run = {"name": "run_id", "in": "query", "description": "Only cards that were issued together", "schema": UUID}
    member = {"name": "member", "in": "query", "description": "Only cards of this member", "schema": GIVEN_ID}
    number = {"name": "number", "in": "query", "description": "One card", "schema": _NUMBER}
    pdf = {"description": "The sheets", "content": {"application/pdf": {"schema": {}}}}
    return {
        _CARDS: {
            "parameters": [path_parameter("program", NAME)],
            "get": operation(
                _TAG, "List cards", {200: ok("A page, in the order of issue", ref("CardPage"))}, 404, 409,
                operationId="listCards", parameters=[run, member, *PAGED],
                description="Those of a run, those of a member, or all.",
            ),
            "post": operation(
                _TAG, "Issue cards", {201: ok("The cards", ref("IssuedCards"))}, 404, 409,
                operationId="issueCards", parameters=[_DRY_RUN], requestBody=body("NewCards"),
                description="Without a member a card is blank; in a program whose unit is a currency it is a gift card "
                "with an account of its own. " + _ANY,
            ),
        },
        _CARDS + ".pdf": {
            "parameters": [path_parameter("program", NAME)],
            "get": operation(
                _TAG, "Print cards", {200: pdf}, 404, 409, 410, 501, operationId="printCards",
                parameters=[run, number],
                description="A4 sheets of ten cards with QR code and Code 128: either those of one `run_id` or one "
                "`number`. Needs the extra `issuer[cards]` on the server.",
            ),
        },
    }  # fmt: skip


def _one() -> dict[str, Schema]:
    card = {200: ok("The card", ref("Card"))}
    return {
        _CARD: _of_card(
            get=operation(
                _TAG, "Show a card", {200: ok("The card with its balance", ref("CardWithBalance"))}, 404, 409, 410,
                operationId="showCard",
                description="An unknown number is a failed look-up of the caller. " + _ANY,
            ),
        ),
        _CARD + "/assign": _of_card(
            post=_act(
                "Assign a card", "assignCard", card, "A blank card becomes the member's; a repeat changes nothing.",
                requestBody=body("CardAssignment"),
            )
        ),
        _CARD + "/revoke": _of_card(
            post=_act("Revoke a card", "revokeCard", card, "Final. What the account of the card has stays there.")
        ),
        _CARD + "/replace": _of_card(
            post=_act(
                "Replace a card", "replaceCard", {201: ok("The new card", ref("Card"))},
                "Revokes the card and issues another one of the same account.",
            )
        ),
    }  # fmt: skip


def _value() -> dict[str, Schema]:
    entry = {201: ok("The entry and the balance", ref("Posted"))}
    return {
        _CARD + "/top-up": _of_card(
            post=_act("Top a card up", "topUpCard", entry, "Adds an amount.", _TILL, requestBody=body("CardTopUp"))
        ),
        _CARD + "/spend": _of_card(
            post=_act(
                "Pay with a card", "spendCard", entry, "Takes an amount, all of it or nothing.", _TILL,
                requestBody=body("CardSpend"),
            )
        ),
        _CARD + "/refund": _of_card(
            post=_act(
                "Refund to a card", "refundCard", entry, "Undoes what an entry has spent, or a part of it.", _TILL,
                requestBody=body("CardRefund"),
            )
        ),
    }  # fmt: skip


def _wallets() -> dict[str, Schema]:
    apple = {"description": "The signed pass", "content": {MEDIA_TYPE: {"schema": {}}}}
    return {
        _CARD + "/apple.pkpass": _of_card(
            get=operation(
                _TAG, "Get a card for Apple Wallet", {200: apple}, 404, 409, 410, operationId="appleCard",
                description="404 `wallet_not_configured` without a certificate. " + _ANY,
            )
        ),
        _CARD + "/google": _of_card(
            get=operation(
                _TAG, "Get a card for Google Wallet", {200: ok("The link that saves it", ref("WalletLink"))},
                404, 409, 410, operationId="googleCard",
                description="404 `wallet_not_configured` without a service account. " + _ANY,
            )
        ),
    }  # fmt: skip


def _of_card(**operations: Schema) -> Schema:
    return {"parameters": [path_parameter("program", NAME), path_parameter("number", _NUMBER)], **operations}


def _act(
    summary: str, operation_id: str, answers: dict[int, Schema], description: str, scope: str = _ANY, **more: Any
) -> Schema:
    return operation(
        _TAG, summary, answers, 404, 409, 410, operationId=operation_id, parameters=[_DRY_RUN],
        description=f"{description} {scope}", **more,
    )  # fmt: skip
