"""The gathering executor: operations that arrive while a transaction is in flight share the next one.

A process has one transaction in flight, and its own accounts never wait for each other. Every operation is durable
before it is answered. If the outcome of a commit is unknown, so is that of its operations: a repeat with the same
Idempotency-Key, or of the same order, finds what was committed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Final

import structlog

from issuer.loyalty.operations import MoveKind, NewMove, Operation, TransferOut
from issuer.loyalty.outcome import Applied, Refusal, Transferred
from issuer.loyalty.reading import Reader
from issuer.loyalty.transaction import Settled, WorksFailedError, run_transaction
from issuer.loyalty.work import NO_ACTOR, Actor, PointsOutcome, Work
from issuer.storage.acts import UNKEPT, Act
from issuer.storage.postgres import AnyConnection, Pool, PostgresUnavailableError, unavailable_translated

log = structlog.get_logger()

MAX_WAITING: Final = 4_096
"""Operations that may wait in one process."""
MAX_IN_TRANSACTION: Final = 256


class PointsBusyError(Exception):
    """Too many operations on points wait in this process. Nothing was done."""

    def __init__(self) -> None:
        super().__init__("too many operations wait")


class LoyaltyExecutor:
    """Carries out operations on accounts, many in one transaction. One per process; it runs on one event loop.

    `timeout_s` bounds how long an operation waits for its transaction to begin; the pool bounds each statement.
    """

    def __init__(self, postgres: Pool, *, timeout_s: float, max_waiting: int = MAX_WAITING) -> None:
        self._postgres = postgres
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._reader = Reader()
        self._queue: deque[Work] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many operations wait for a transaction."""
        return len(self._queue)

    async def aclose(self) -> None:
        """Let what waits finish within the time limit, and refuse what still waits then."""
        if self._task is not None:
            with suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(self._timeout_s):
                    await asyncio.shield(self._task)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        _answer(list(self._queue), PostgresUnavailableError("the process stops"))
        self._queue.clear()

    async def execute(
        self,
        account_id: int,
        operation: Operation,
        *,
        actor: Actor = NO_ACTOR,
        act: Act[Any] = UNKEPT,
        dry_run: bool = False,
    ) -> Applied | Refusal:
        """Carry out an operation, durable before it returns; a refusal changes nothing, nor does `dry_run`.

        `act`: its answer is kept in the same transaction. Raises what the act raises, PointsBusyError and
        PostgresUnavailableError; after the latter it may be unknown whether the operation was carried out.
        """
        outcome = await self._submit(account_id, operation, None, actor, act, dry_run)
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
        actor: Actor = NO_ACTOR,
        act: Act[Any] = UNKEPT,
        dry_run: bool = False,
    ) -> Transferred | Refusal:
        """Move points between two accounts of a program, or everything if the kind of `move` is a merge.

        Promises and errors as of `execute`.
        """
        operation = TransferOut(points, move, move.kind is MoveKind.MERGE, reason)
        outcome = await self._submit(source_id, operation, target_id, actor, act, dry_run)
        assert not isinstance(outcome, Applied)
        return outcome

    async def _submit(
        self, account_id: int, operation: Operation, target_id: int | None, actor: Actor, act: Act[Any], dry_run: bool
    ) -> PointsOutcome:
        if len(self._queue) >= self._max_waiting:
            raise PointsBusyError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[PointsOutcome] = loop.create_future()
        give_up_at = loop.time() + self._timeout_s
        self._queue.append(Work(account_id, operation, target_id, actor, act, dry_run, give_up_at, answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="loyalty-executor")
        return await answer

    async def _run(self) -> None:
        """Work until nothing waits. The connection is kept meanwhile: its return to the pool costs a round trip."""
        while self._queue:
            works: list[Work] = []
            try:
                async with unavailable_translated(), self._postgres.acquire(timeout=self._timeout_s) as connection:
                    while works := self._gather():
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
            _answer([work], one)

    def _gather(self) -> list[Work]:
        """Return the works of the next transaction in the order of their arrival, up to the bound."""
        now = asyncio.get_running_loop().time()
        works: list[Work] = []
        later: list[Work] = []
        taken: set[object] = set()
        blocked: set[int] = set()
        while self._queue and len(works) < MAX_IN_TRANSACTION:
            work = self._queue.popleft()
            if work.answer.done():
                continue  # The request was cancelled. Nothing was done for it.
            if work.give_up_at <= now:
                _answer([work], PostgresUnavailableError("no transaction began in time"))
                continue
            if work.is_alone:
                if works or later:
                    later.append(work)
                    break
                return [work]
            names = set(work.unique())
            if taken.isdisjoint(names) and blocked.isdisjoint(work.account_ids):
                works.append(work)
                taken |= names
            else:
                # It waits for the next transaction, and so do later works on its accounts: their order is kept.
                later.append(work)
                blocked.update(work.account_ids)
        self._queue.extendleft(reversed(later))
        return works


async def execute_in(
    connection: AnyConnection, account_id: int, operation: Operation, *, actor: Actor = NO_ACTOR
) -> Applied | Refusal:
    """Carry out an operation in the caller's transaction, which locks the account until its end.

    For an account that the same transaction has opened. The account of another one is that of an executor, which
    keeps its locks for a moment only.
    """
    loop = asyncio.get_running_loop()
    work = Work(account_id, operation, None, actor, UNKEPT, False, loop.time(), loop.create_future())
    (settled,) = await run_transaction(connection, Reader(), [work])
    if isinstance(settled, Exception):
        raise settled
    assert not isinstance(settled, Transferred)
    return settled


def _answer(works: list[Work], settled: Settled) -> None:
    for work in works:
        if work.answer.done():
            continue
        if isinstance(settled, Exception):
            work.answer.set_exception(settled)
        else:
            work.answer.set_result(settled)
