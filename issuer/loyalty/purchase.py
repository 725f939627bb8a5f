"""A purchase: points for the code of a reward. What is stored of it, and what becomes of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from issuer.contract.outcomes import Outcome
from issuer.engine.calls import Answer
from issuer.ids import Identity
from issuer.instants import show_instant
from issuer.loyalty.account import MoveState
from issuer.loyalty.amounts import show_points
from issuer.loyalty.reward import Reward
from issuer.loyalty.work import NO_ACTOR, Actor

if TYPE_CHECKING:
    import asyncpg

ISSUED: Final = frozenset({Outcome.GRANTED, Outcome.REPLAYED})
UNKNOWN: Final = frozenset({Outcome.NOT_READY, Outcome.NOT_REPLICATED})
"""Answers behind which a code may have been issued. Every other one is a refusal: the request issued none."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The Idempotency-Key of a request, hashed with its scope, and the digest of the request."""

    hashed: bytes
    request_sha256: bytes


@dataclass(frozen=True, slots=True)
class NewPurchase:
    """What a member asks for. `client_id`: of the program. `customer`: to whom the code is issued."""

    account_id: int
    reward: Reward
    client_id: UUID
    customer: Identity
    request: RequestKey | None = None
    actor: Actor = NO_ACTOR


@dataclass(frozen=True, slots=True)
class Purchase:
    """One purchase as stored. `attributes`: of the code, a JSON object. `refusal`: why it was undone."""

    id: UUID
    account_id: int
    reward_id: UUID
    batch_id: UUID
    points: int
    state: MoveState
    code: str | None
    attributes: str | None
    refusal: str | None
    created_at: datetime
    settled_at: datetime | None

    @property
    def is_settled(self) -> bool:
        return self.state is not MoveState.DEBITED

    def to_json(self, unit: str) -> dict[str, Any]:
        """Return the purchase as the API and the command line show it: always the same once it is settled."""
        shown: dict[str, Any] = {
            "id": str(self.id),
            "reward_id": str(self.reward_id),
            "batch_id": str(self.batch_id),
            "points": show_points(self.points, unit),
            "state": str(self.state),
            "code": self.code,
        }
        if self.attributes is not None:
            shown["attributes"] = orjson.loads(self.attributes)
        return shown | {
            "refusal": self.refusal,
            "created_at": show_instant(self.created_at),
            "settled_at": None if self.settled_at is None else show_instant(self.settled_at),
        }


@dataclass(frozen=True, slots=True)
class Bought:
    """What became of a request for a purchase. `answer`: the engine's; None: it was settled before this request asked.

    `replayed`: an earlier request with the same key began it.
    """

    purchase: Purchase
    answer: Answer | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class PurchaseAttempt:
    """One attempt to get the code of a debited move. `number`: a later attempt has a higher one and takes its place.

    `give_up_at`: the time of the event loop behind which this attempt must not ask, so that its lease outlasts it.
    """

    move_id: UUID
    number: int
    account_id: int
    seq: int
    batch_id: UUID
    client_id: UUID
    customer: Identity
    key_hash: bytes
    api_key_id: int
    created_at: datetime
    give_up_at: float


def purchase_from_row(row: asyncpg.Record) -> Purchase:
    """Return the purchase of a row of `issuer.loyalty.purchase_store.PURCHASES`."""
    return Purchase(**(dict(row) | {"state": MoveState(row["state"])}))
