"""The gathering executor: operations that arrive while a transaction is in flight share the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.loyalty.operations import NewMove, Operation
from issuer.loyalty.outcome import Applied, Refusal, Transferred
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import Pool


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for an operation, for its entries. Nothing is known of a command or the worker."""

    api_key_id: int | None = None
    key_hash: bytes | None = None
    staff_id: UUID | None = None


NO_ACTOR: Final = Actor()


class LoyaltyExecutor:
    """Carries out operations on accounts, many in one transaction. One per process; it runs on one event loop."""

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres

    async def start(self) -> None:
        """Begin to work."""

    async def aclose(self) -> None:
        """Finish what is in flight and refuse what still waits."""

    async def execute(
        self,
        account_id: int,
        operation: Operation,
        *,
        actor: Actor = NO_ACTOR,
        act: Act[Any] = UNKEPT,
        dry_run: bool = False,
    ) -> Applied | Refusal:
        """Carry out an operation, durable before it returns. `act`: its answer is kept in the same transaction."""
        raise NotImplementedError

    async def transfer(
        self,
        source_id: int,
        target_id: int,
        points: int,
        *,
        move: NewMove,
        reason: str | None = None,
        actor: Actor = NO_ACTOR,
        act: Act[Any] = UNKEPT,
        dry_run: bool = False,
    ) -> Transferred | Refusal:
        """Move points between two accounts of a program, or everything if the kind of `move` is a merge."""
        raise NotImplementedError
