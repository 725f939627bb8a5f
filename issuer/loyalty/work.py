"""Work: what a caller submits to the executor, with everything that the operations of it name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.loyalty.account import OrderKey
from issuer.loyalty.operations import CaptureHold, Earn, Operation, PlaceHold, ReleaseHold, TakeBack, TransferOut, Undo
from issuer.loyalty.outcome import Applied, Refusal, Transferred
from issuer.storage.acts import Act
from issuer.storage.gathered_reads import settle_future
from issuer.storage.kept_answers import AnswerKey, KeptAct


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller of an operation, for its entries. Nothing is known of a command or the worker."""

    api_key_id: int | None = None
    key_hash: bytes | None = None
    staff_id: UUID | None = None


NO_ACTOR: Final = Actor()

PointsOutcome = Applied | Transferred | Refusal


@dataclass(slots=True)
class Work:
    """One operation on an account, or a transfer to `target_id`; its outcome is of use until `give_up_at`.

    `client_id`: of the program; None: the caller names none.
    """

    account_id: int
    operation: Operation
    target_id: int | None
    client_id: UUID | None
    actor: Actor
    act: Act[Any]
    dry_run: bool
    give_up_at: float
    answer: asyncio.Future[PointsOutcome]

    @property
    def account_ids(self) -> tuple[int, ...]:
        return (self.account_id,) if self.target_id is None else (self.account_id, self.target_id)

    @property
    def kept_act(self) -> KeptAct[Any] | None:
        """The act if it has a key; None: no answer is kept or looked for."""
        act = self.act
        return act if isinstance(act, KeptAct) and act.answer_key is not None else None

    @property
    def is_alone(self) -> bool:
        """Whether the work shares its transaction with no other: its act reads or writes there, or it is a merge.

        A merge changes whose the orders of its source are.
        """
        acts = type(self.act) is not Act and not isinstance(self.act, KeptAct)
        return acts or (isinstance(self.operation, TransferOut) and self.operation.merge)

    @property
    def order_key(self) -> OrderKey | None:
        operation = self.operation
        order = operation.order if isinstance(operation, Earn | TakeBack) else None
        return None if order is None else (order.source, order.order_id)

    @property
    def hold_id(self) -> UUID | None:
        operation = self.operation
        return operation.hold_id if isinstance(operation, PlaceHold | CaptureHold | ReleaseHold) else None

    @property
    def entry_seq(self) -> int | None:
        return self.operation.entry_seq if isinstance(self.operation, Undo) else None

    @property
    def move_id(self) -> UUID | None:
        """The move that must be read: one that the operation settles."""
        return self.operation.move_id if isinstance(self.operation, Undo) else None

    def unique(self) -> Iterator[AnswerKey | tuple[UUID | None, OrderKey]]:
        """Yield what may occur once in a transaction: a repeat finds what the first one has committed."""
        if (act := self.kept_act) is not None and act.answer_key is not None:
            yield act.answer_key
        if (key := self.order_key) is not None:
            yield self.client_id, key  # Other clients have orders of the same name.

    def settle(self, settled: PointsOutcome | Exception) -> None:
        """Answer the caller, unless it was answered or does not wait any more."""
        settle_future(self.answer, settled)
