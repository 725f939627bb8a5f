"""The gathering executor: operations that arrive while a transaction is in flight share the next one.

A process has one transaction in flight, and its own accounts never wait for each other. Every operation is durable
before it is answered. If the outcome of a commit is unknown, so is that of its operations: a repeat with the same
Idempotency-Key, or of the same order, finds what was committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog

from issuer.loyalty.operations import MoveKind, NewMove, Operation, TransferOut
from issuer.loyalty.outcome import Applied, Refusal, Transferred
from issuer.loyalty.reading import Reader
from issuer.loyalty.transaction import Settled, WorksFailedError, run_transaction
from issuer.loyalty.waiting import MAX_WAITING, WaitingWorks
from issuer.loyalty.work import NO_ACTOR, Actor, PointsOutcome, Work
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.gathered_reads import KEPT_S
from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError, unavailable_translated

log = structlog.get_logger()


class LoyaltyExecutor:
    """Carries out operations on accounts, many in one transaction. One per process; it runs on one event loop.

    `timeout_s` bounds how long an operation waits for its transaction to begin; the pool bounds each statement.
    """

    def __init__(self, postgres: Pool, *, timeout_s: float, max_waiting: int = MAX_WAITING) -> None:
        self._postgres = postgres
        self._timeout_s = timeout_s
        self._reader = Reader()
        self._works = WaitingWorks(max_waiting)
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many operations wait for a transaction."""
        return len(self._works)

    async def aclose(self) -> None:
        """Let what waits finish within the time limit, and refuse what still waits then."""
        if self._task is not None:
            with suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(self._timeout_s):
                    await asyncio.shield(self._task)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        _answer(self._works.clear(), PostgresUnavailableError("the process stops"))

    async def execute(
        self,
        account_id: int,
        operation: Operation,
        *,
        client_id: UUID | None = None,
        actor: Actor = NO_ACTOR,
        act: Act[Any] = UNKEPT,
        dry_run: bool = False,
    ) -> Applied | Refusal:
        """Carry out an operation, durable before it returns; a refusal changes nothing, nor does `dry_run`.

        `client_id`: of the program, whose turn and places it uses; None: those of all that name none. `act`: its answer
        is kept in the same transaction. Raises what the act raises, PointsBusyError and PostgresUnavailableError; after
        the latter it may be unknown whether the operation was carried out.
        """
        outcome = await self._submit(account_id, operation, None, client_id, actor, act, dry_run)
        assert not isinstance(outcome, Transferred)
        return outcome

    async def transfer(
        self,
        source_id: int,
        target_id: int,
        points: int,
        *,
        move: NewMove,
        reason: str | None = None,
        client_id: UUID | None = None,
        actor: Actor = NO_ACTOR,
        act: Act[Any] = UNKEPT,
        dry_run: bool = False,
    ) -> Transferred | Refusal:
        """Move points between two accounts of a program, or everything if the kind of `move` is a merge.

        Promises and errors as of `execute`.
        """
        operation = TransferOut(points, move, move.kind is MoveKind.MERGE, reason)
        outcome = await self._submit(source_id, operation, target_id, client_id, actor, act, dry_run)
        assert not isinstance(outcome, Applied)
        return outcome

    async def _submit(
        self,
        account_id: int,
        operation: Operation,
        target_id: int | None,
        client_id: UUID | None,
        actor: Actor,
        act: Act[Any],
        dry_run: bool,
    ) -> PointsOutcome:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[PointsOutcome] = loop.create_future()
        give_up_at = loop.time() + self._timeout_s
        self._works.add(Work(account_id, operation, target_id, client_id, actor, act, dry_run, give_up_at, answer))
        self._arrived.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="loyalty-executor")
        return await answer

    async def _run(self) -> None:
        """Work until nothing waits."""
        while self._works:
            works: list[Work] = []
            try:
                async with unavailable_translated(), self._postgres.acquire(timeout=self._timeout_s) as connection:
                    while works := self._gather() or await self._later():
                        await self._carry_out(connection, works)
            except PostgresUnavailableError as error:
                _answer(works or self._gather(), error)
            except Exception as error:
                log.exception("operations on points failed", operations=len(works))
                _answer(works or self._gather(), error)
            except asyncio.CancelledError:
                _answer(works, PostgresUnavailableError("the process stops"))
                raise

    async def _carry_out(self, connection: AnyConnection, works: list[Work]) -> None:
        """Carry out works in one transaction, or in halves of it until one that fails it is alone, and answer them."""
        try:
            async with unavailable_translated():
                settled = await run_transaction(connection, self._reader, works)
        except WorksFailedError as failed:
            log.warning("a gathered transaction failed", operations=len(works), error=type(failed.error).__name__)
            middle = len(works) // 2
            await self._carry_out(connection, works[:middle])
            await self._carry_out(connection, works[middle:])
            return
        for work, one in zip(works, settled, strict=True):
            work.settle(one)

    async def _later(self) -> list[Work]:
        """Return what arrives in a moment."""
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(KEPT_S):
                await self._arrived.wait()
        return self._gather()

    def _gather(self) -> list[Work]:
        return self._works.gather(asyncio.get_running_loop().time())


async def execute_in(
    connection: AnyConnection, account_id: int, operation: Operation, *, actor: Actor = NO_ACTOR
) -> Applied | Refusal:
    """Carry out an operation in the caller's transaction, which locks the account until its end.

    For an account that the same transaction has opened. The account of another one is that of an executor, which
    keeps its locks for a moment only.
    """
    loop = asyncio.get_running_loop()
    work = Work(account_id, operation, None, None, actor, UNKEPT, False, loop.time(), loop.create_future())
    (settled,) = await run_transaction(connection, Reader(), [work])
    if isinstance(settled, Exception):
        raise settled
    assert not isinstance(settled, Transferred)
    return settled


def _answer(works: Sequence[Work], settled: Settled) -> None:
    for work in works:
        work.settle(settled)
