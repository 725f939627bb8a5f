"""JSON Schemas of loyalty: programs, members, points."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.shapes import (
    CLIENT,
    GIVEN_ID,
    INSTANT,
    NAME,
    UUID,
    Schema,
    absent_or_null,
    count,
    described,
    nullable,
    page,
    ref,
    shape,
    whole,
)
from issuer.loyalty.account import EntryOp
from issuer.loyalty.bounds import MAX_ORDER_ID, MAX_POINTS, MAX_REASON, MAX_SOURCE
from issuer.loyalty.program import MAX_NAME, ProgramState
from issuer.loyalty.stats import FIGURES
from issuer.loyalty.terms import MAX_EXPIRY, MAX_PENDING_DAYS, MAX_TIERS, OnRefund
from issuer.loyalty.traces import TRACES
from issuer.mail_server import MAX_ADDRESS

_DECIMAL: Final = "^-?[0-9]{1,15}([.][0-9]{1,4})?$"
FIGURE: Final[Schema] = {
    "type": ["integer", "string"],
    "pattern": _DECIMAL,
    "examples": [70],
}
"""A figure of an account in an answer."""
GIVEN_POINTS: Final[Schema] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_POINTS},
        {"type": "string", "pattern": _DECIMAL.replace("-?", "")},
    ],
    "description": 'A whole number; where the unit of the program is a currency, an amount such as "12.50"',
    "examples": [50],
}
_CHANGE_OF_POINTS: Final[Schema] = {
    "anyOf": [
        {"type": "number", "minimum": -MAX_POINTS, "maximum": MAX_POINTS, "not": {"const": 0}},
        {"type": "string", "pattern": _DECIMAL},
    ],
    "description": "As for a spend; below 0: points are taken",
    "examples": [-20],
}
_AMOUNT: Final[Schema] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": _DECIMAL.replace("-?", "")},
    ],
    "description": "A decimal string with at most the digits of the currency",
    "examples": ["12.50"],
}
_CURRENCY: Final[Schema] = {"type": "string", "pattern": "^\\s*[A-Za-z]{3}\\s*$", "examples": ["EUR"]}
_PROGRAM_NAME: Final[Schema] = {
    **NAME, "maxLength": MAX_NAME, "description": "Unique among the programs of the client that have not ended",
    "examples": ["Tea club"],
}  # fmt: skip
_TIMEZONE: Final[Schema] = {
    "type": "string",
    "description": "A name of the IANA database, in which days, months and years of the terms begin and end",
    "examples": ["Europe/London"],
}
_POINTS: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": MAX_POINTS}


def _text(most: int, description: str, example: str) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": most, "description": description, "examples": [example]}


def _limit(description: str) -> Schema:
    return {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_POINTS, "description": description}


def _all_optional(properties: dict[str, Schema]) -> Schema:
    return shape(properties, optional=tuple(properties))


_EARN: Final = shape(
    {
        "points": described(_POINTS, "Points for each `per`, rounded down"),
        "per": {"type": "string", "pattern": _DECIMAL, "description": 'The amount that earns them; default "1"'},
        "currency": described(_CURRENCY, "Currency of the orders; default: the unit of the program"),
    },
    optional=("per", "currency"),
)
_LIMITS: Final = _all_optional(
    {
        "earn_entry": _limit("Most points of one earn"),
        "earn_day": _limit("Most points that a member earns in a day"),
        "spend_entry": _limit("Most points of one spend"),
        "spend_day": _limit("Most points that a member spends in a day"),
    }
)
_EXPIRY: Final[Schema] = {
    "oneOf": [
        shape({name: {**whole(int(name != "end_of_year"), most, text), "type": "integer"}})
        for (name, most), text in zip(
            MAX_EXPIRY.items(),
            ("Days after the one on which they were earned", "Months", "Years after the present one, of which the end"),
            strict=True,
        )
    ],
    "description": "When points expire: at the end of that day in the program's time zone; null: never",
}
_TERMS: Final[dict[str, Schema]] = {
    "earn": described(nullable(_EARN), "What an order earns; null: nothing by itself"),
    "pending_days": {
        "type": "integer", "minimum": 0, "maximum": MAX_PENDING_DAYS,
        "description": "Days until earned points become available",
    },
    "expiry": described({"anyOf": [_EXPIRY, {"type": "null"}]}, _EXPIRY["description"]),
    "on_refund": {
        "enum": [*OnRefund], "description": "What a refund does with points that are spent: book a debt, or write off",
    },
    "limits": described(nullable(_LIMITS), "The most points of an entry, and of a member in a day; null: no limit"),
    "min_spend": described(_POINTS, "The fewest points of a spend"),
    "max_balance": _limit("The most points of an account; null: no limit"),
    "tiers": {
        "type": "array",
        "maxItems": MAX_TIERS,
        "items": shape(
            {
                "name": _text(64, "Name of the tier", "gold"),
                "lifetime": {
                    "type": "integer", "minimum": 0, "maximum": MAX_POINTS, "description": "Lifetime that reaches it",
                },
            }
        ),
        "description": "Tiers by lifetime; they differ in name and in lifetime",
    },
    "self_join": {
        "type": "boolean",
        "description": "Whether a person joins on the member page, with an e-mail address alone; default: true",
    },
}  # fmt: skip

_BALANCE: Final[dict[str, Schema]] = {
    "available": described(FIGURE, "Points that can be spent; a string where the unit of the program is a currency"),
    "held": described(FIGURE, "Points in open holds"),
    "pending": described(FIGURE, "Points that become available later"),
    "debt": described(FIGURE, "Points that a refund took back after they were spent; every credit pays it first"),
    "lifetime": described(FIGURE, "Points earned in all, without those that refunds took back"),
    "tier": {"type": ["string", "null"], "description": "Name of the tier; null: none"},
    "expiring": {
        "type": "array",
        "items": shape(
            {
                "at": described(nullable(INSTANT), "The instant at which they expire, exclusive; null: never"),
                "points": described(FIGURE, "Points that expire then"),
            }
        ),
        "description": "The available points by expiry, the soonest first: the order in which they are spent",
    },
}
_REF: Final[Schema] = {**GIVEN_ID, "description": "The caller's own id of the member; not in the form of a UUID"}
_SAID: Final[dict[str, Schema]] = {
    "ref": _REF,
    "email": {
        "type": "string", "minLength": 3, "maxLength": MAX_ADDRESS + 8,
        "description": "Unique within the client. The domain is stored in ASCII, as in xn--mller-kva.example",
        "examples": ["anna@example.org"],
    },
    "phone": {
        "type": "string", "description": "With the code of its country; stored as E.164",
        "examples": ["+44 20 7946 0958"],
    },
    "name": described(NAME, "Name of the person"),
    "locale": {"type": "string", "description": "The tag of a language", "examples": ["de-AT"]},
}  # fmt: skip
_MARKETING: Final[Schema] = {"type": "boolean", "description": "Whether the member agrees to marketing"}
_MEMBER: Final[dict[str, Schema]] = {
    "id": UUID,
    **{name: nullable(schema) for name, schema in _SAID.items()},
    "marketing": _MARKETING,
    "marketing_at": described(nullable(INSTANT), "When `marketing` was last said; null: never"),
    "erased_at": described(nullable(INSTANT), "When the personal data were erased; null: they are not"),
    "created_at": INSTANT,
}
_REASON: Final = _text(MAX_REASON, "Why, for people; no personal data", "birthday")
_ORDER: Final[dict[str, Schema]] = {
    "order_id": _text(MAX_ORDER_ID, "The shop's id of the order", "A-1001"),
    "source": _text(
        MAX_SOURCE, "The system that the order is of; default `api`. With `order_id` it is the order", "shop"
    ),
}

_DAY: Final[Schema] = {"type": "string", "format": "date", "description": "The day"}
_SUMS: Final[dict[str, Schema]] = {
    name: described(FIGURE, f"Points that were {name.replace('_', ' ')}") for name in FIGURES
}

LOYALTY: Final[dict[str, Schema]] = {
    "Terms": described(_all_optional(_TERMS), "Terms of a program; minor units where its unit is a currency"),
    "NewProgram": shape(
        {
            "name": _PROGRAM_NAME,
            "client": nullable(CLIENT),
            "client_id": nullable(CLIENT),
            "unit": {"type": ["string", "null"], "description": "`points` (default), or a currency: stored value"},
            "timezone": described(nullable(_TIMEZONE), "A name of the IANA database; default UTC"),
            "terms": described(nullable(ref("Terms")), "Its terms; absent: nothing is earned by itself"),
        },
        optional=("client", "client_id", "unit", "timezone", "terms"),
    ),
    "ProgramChange": _all_optional(
        {
            "name": _PROGRAM_NAME,
            "timezone": nullable(_TIMEZONE),
            "state": {"enum": [*ProgramState, None], "description": "`ended` is final"},
            "terms": described(nullable(ref("Terms")), "What is absent stays as it is"),
        }
    ),
    "Program": shape(
        {
            "id": UUID,
            "client_id": described(UUID, "Id of the client"),
            "name": _PROGRAM_NAME,
            "unit": {"type": "string", "description": "`points`, or a currency"},
            "timezone": _TIMEZONE,
            "state": {"enum": [*ProgramState], "description": "A paused or ended program grants and takes no points"},
            "terms_number": count("Number of the terms: each change is a version of its own"),
            "terms": described(ref("Terms"), "Its latest terms"),
            "created_at": INSTANT,
        }
    ),
    "ProgramPage": page("Program"),
    "NewMember": _all_optional(
        {
            **absent_or_null(_SAID),
            "marketing": _MARKETING,
            "member": described(
                nullable(GIVEN_ID), "Id or ref of a member of the client who joins this program; alone, then"
            ),
        }
    ),
    "MemberChange": _all_optional({**absent_or_null(_SAID), "marketing": _MARKETING}),
    "Member": shape(
        {
            **_MEMBER,
            "account_id": count("Id of the account"),
            "cards": {
                "type": "array",
                "items": {"type": "string"},
                "description": "Numbers of its cards that are not revoked",
            },
            **_BALANCE,
        }
    ),
    "MemberPage": page("Member"),
    "ErasedMember": shape(_MEMBER),
    "PersonExport": shape(
        {
            "members": {
                "type": "array", "items": ref("ErasedMember"),
                "description": "The member, and those that were merged into it",
            },
            **{
                trace.name: {
                    "type": "array", "items": {"type": "object"}, "description": f"Rows of `{trace.name}` about it",
                }
                for trace in TRACES
            },
        }
    ),
    "ProgramStats": shape(
        {
            "from": described(INSTANT, "Start of the period, inclusive"),
            "to": described(INSTANT, "End of the period, exclusive"),
            "days": {
                "type": "array",
                "items": shape({"day": _DAY, **_SUMS}),
                "description": "The days that have entries, in the time zone of the program",
            },
            "total": described(shape(_SUMS), "The sums of the period"),
            "redemption_rate": {
                "type": ["string", "null"], "pattern": "^[0-9]+[.][0-9]{4}$",
                "description": "How much of what was earned was spent; null: nothing was earned",
            },
            "members": count("Members of the program"),
            "outstanding": described(
                shape(
                    {
                        **{name: described(FIGURE, f"Sum of `{name}`") for name in ("available", "held", "pending")},
                        "by_month": {
                            "type": "array",
                            "items": shape(
                                {
                                    "month": {
                                        "type": ["string", "null"], "pattern": "^[0-9]{4}-[0-9]{2}$",
                                        "description": "The month at whose end or in which they expire; null: never",
                                    },
                                    "points": described(FIGURE, "Available points that expire then"),
                                }
                            ),
                            "description": "Available points by month of expiry",
                        },
                    }
                ),
                "What members have",
            ),
            "debts": described(
                shape({"accounts": count("Accounts with a debt"), "points": described(FIGURE, "Their sum")}), "Debts"
            ),
            "top_rewards": {
                "type": "array",
                "items": shape(
                    {
                        "reward_id": described(UUID, "Id of the reward"),
                        "name": described(NAME, "Name of the reward"),
                        "purchases": count("How often it was taken"),
                        "points": described(FIGURE, "For how many points"),
                    }
                ),
                "description": "The rewards that were taken most in the period",
            },
        }
    ),
    "Earn": _all_optional(
        {
            "points": nullable(GIVEN_POINTS),
            "amount": nullable(described(_AMOUNT, "What the order cost, before tax and shipping")),
            "currency": nullable(described(_CURRENCY, "Must be that of the terms")),
            **absent_or_null(_ORDER),
            "reason": nullable(_REASON),
        }
    ),
    "Spend": shape({"points": GIVEN_POINTS, "reason": nullable(_REASON)}, optional=("reason",)),
    "Adjustment": shape(
        {
            "points": _CHANGE_OF_POINTS,
            "reason": _REASON,
            "allow_debt": {"type": "boolean", "description": "true: what is not available becomes a debt"},
        },
        optional=("allow_debt",),
    ),
    "NewHold": shape(
        {
            "points": GIVEN_POINTS,
            "expires_at": described(nullable(INSTANT), "Default: in 15 minutes; at most 30 days from now"),
            "reason": nullable(_REASON),
        },
        optional=("expires_at", "reason"),
    ),
    "Capture": _all_optional({"points": nullable(described(GIVEN_POINTS, "Default: all; the rest is released"))}),
    "Refund": shape(
        {
            **_ORDER,
            "amount_refunded": nullable(described(_AMOUNT, "Of this refund; default: all that is left of the order")),
            "currency": nullable(described(_CURRENCY, "Must be that in which the order has earned")),
            "reason": nullable(_REASON),
        },
        optional=("source", "amount_refunded", "currency", "reason"),
    ),
    "EntryReversal": _all_optional(
        {
            "amount_refunded": nullable(described(_AMOUNT, "Of the order of an earn: what this refund paid back")),
            "currency": nullable(_CURRENCY),
            "points": nullable(described(GIVEN_POINTS, "Of a spend: what to restore; default: all that is left")),
            "reason": nullable(_REASON),
        }
    ),
    "Balance": shape(_BALANCE),
    "PointsEntry": shape(
        {
            "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "description": "Its id, for its reversal"},
            "seq": count("Position in the ledger of the account, from 1 without gaps"),
            "op": {"enum": [*EntryOp], "description": "What was done"},
            "points": described(FIGURE, "How many points it was about"),
            "change": described(FIGURE, "By how much `available + held − debt` changed"),
            **{name: described(FIGURE, f"`{name}` after it") for name in
               ("available", "held", "pending", "debt", "lifetime")},
            "order": described(
                nullable(shape({"source": _ORDER["source"], "order_id": _ORDER["order_id"]})), "The order; null: none"
            ),
            "reason": {"type": ["string", "null"]},
            "reverses": {"type": ["string", "null"], "description": "Id of the entry that it reverses; null: none"},
            "hold_id": described(nullable(UUID), "Id of the hold; null: none"),
            "move_id": described(nullable(UUID), "Id of the purchase, transfer or merge; null: none"),
            "terms_number": count("Number of the terms"),
            "occurred_at": described(INSTANT, "When it was written"),
        }
    ),
    "PointsEntryPage": page("PointsEntry"),
    "Posted": shape(
        {
            "entry": described(nullable(ref("PointsEntry")), "The entry; null: nothing had to be done"),
            "balance": described(ref("Balance"), "The account after it"),
        }
    ),
    "PostedHold": shape(
        {
            "entry": described(ref("PointsEntry"), "The entry"),
            "balance": described(ref("Balance"), "The account after it"),
            "hold": described(
                shape(
                    {
                        "id": UUID,
                        "points": described(FIGURE, "Points that it holds"),
                        "captured": described(FIGURE, "Points that its capture took"),
                        "expires_at": described(INSTANT, "When its points become available again"),
                        "state": {"enum": ["open", "captured", "released", "expired"], "description": "Its state"},
                    }
                ),
                "The hold",
            ),
        }
    ),
}  # fmt: skip
