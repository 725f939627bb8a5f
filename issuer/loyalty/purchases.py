"""Purchases: points for the code of a reward, in steps between which any process may be killed.

1. debit: one transaction takes the points and stores the move with a lease, until when this attempt may ask;
2. ask: the engine issues a code under the id of the move as Idempotency-Key, so a repeat gets the same code;
3. settle: one transaction stores the code (done), or gives the points back with their expiry (undone).

A process that stops between two of them leaves a debited move. Once the lease has ended, an API process takes it over:
it looks whether a code was issued, and continues with step 2. docs/decisions/0031-moves.md gives the reasons.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import structlog

from issuer.contract.keys import idempotency_hash
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import NOT_READY, Answer
from issuer.engine.engine import Engine
from issuer.ids import Identity
from issuer.loyalty.executor import LoyaltyExecutor
from issuer.loyalty.issued_codes import AskedCode, find_issued_codes
from issuer.loyalty.operations import MoveKind, NewMove, Spend, Undo
from issuer.loyalty.outcome import Applied, Refusal, RefusalCode
from issuer.loyalty.purchase import ISSUED, UNKNOWN, Bought, NewPurchase, Purchase, PurchaseAttempt, RequestKey
from issuer.loyalty.purchase_store import (
    BeginPurchase,
    RequestKnownError,
    StaleAttemptError,
    UndoPurchase,
    find_purchase,
    find_request,
    finish_purchase,
    take_over,
)
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

LEASE_MARGIN_S: Final = 1.0
"""Of a lease, for the difference between the speeds of two clocks."""
BATCH_SIZE: Final = 64
LOOK_EVERY_S: Final = 0.5
POLL_S: Final = 0.05


class RequestKeyReusedError(Exception):
    """The Idempotency-Key was used for another request."""


class Purchases:
    """The purchases of one API process: those of its requests, and those that other processes left unsettled."""

    def __init__(self, stores: Stores, engine: Engine, executor: LoyaltyExecutor) -> None:
        self._stores = stores
        self._engine = engine
        self._executor = executor
        self._timeout_s = stores.settings.redeem_timeout_ms / 1000
        # An attempt asks within one time-out, and the call that carries its request may run for another one.
        self.lease_s: Final = 2 * self._timeout_s + LEASE_MARGIN_S

    async def buy(self, new: NewPurchase) -> Bought | Refusal:
        """Buy a reward, durably: what is returned is settled, or is continued in the background (`answer` UNKNOWN).

        A Refusal changed nothing. Raises RequestKeyReusedError, RewardUnavailableError, PostgresUnavailableError.
        """
        if new.request is not None and (known := await self._find_known(new.request)) is not None:
            return known
        # Only now: a repeat is answered also when the reward has ended since.
        new.reward.check_available(datetime.now(UTC))
        attempt = await self._debit(new)
        if attempt is None:
            assert new.request is not None
            return await self._find_known(new.request) or await self.buy(new)
        if isinstance(attempt, Refusal):
            return attempt
        answer = await self._ask(attempt)
        await self._settle(attempt, answer)
        return Bought(await find_purchase(self._stores.postgres, attempt.move_id), answer)

    async def continue_unsettled(self) -> int:
        """Continue moves whose lease has ended, and return how many there were. Cheap when there are none.

        Raises RedisUnavailableError and PostgresUnavailableError: the moves are then taken over again.
        """
        if not self._engine.is_ready:
            # A lease would only keep processes away that can ask.
            return 0
        give_up_at = asyncio.get_running_loop().time() + self._timeout_s
        rows = await take_over(self._stores.postgres, BATCH_SIZE, self.lease_s)
        if not rows:
            return 0
        attempts = [
            PurchaseAttempt(
                row["move_id"], row["attempt"], row["from_account"], row["seq"], row["batch_id"], row["client_id"],
                Identity(row["customer_id"].bytes, None), row["key_hash"], row["api_key_id"], row["created_at"],
                give_up_at,
            )
            for row in rows
        ]  # fmt: skip
        asked = [AskedCode(one.batch_id, one.customer.uuid, one.key_hash, one.created_at) for one in attempts]
        issued = await find_issued_codes(self._stores, asked)
        failures = await asyncio.gather(
            *(self._continue(attempt, issued.get(attempt.key_hash)) for attempt in attempts), return_exceptions=True
        )
        _report(attempts, failures)
        return len(attempts)

    @asynccontextmanager
    async def continuing(self) -> AsyncIterator[None]:
        """Continue unsettled moves in the background until the block ends."""
        task = asyncio.create_task(self._run(), name="unsettled-purchases")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            try:
                full = await self.continue_unsettled() == BATCH_SIZE
            except (PostgresUnavailableError, RedisUnavailableError):
                full = False
            except Exception:
                # One that stops would leave every later move unsettled.
                log.exception("cannot continue purchases; retrying")
                full = False
            if not full:
                await asyncio.sleep(LOOK_EVERY_S)

    async def _debit(self, new: NewPurchase) -> PurchaseAttempt | Refusal | None:
        """Take the points and begin the move. None: another request with the same key has begun one."""
        give_up_at = asyncio.get_running_loop().time() + self._timeout_s
        reward, move_id = new.reward, uuid4()
        key_hash = idempotency_hash(new.customer.packed, str(move_id))
        spend = Spend(reward.cost, move=NewMove(move_id, MoveKind.PURCHASE, reward.id, reward.batch_id))
        act = BeginPurchase(new, move_id, key_hash, self.lease_s)
        try:
            applied = await self._executor.execute(
                new.account_id, spend, client_id=new.client_id, actor=new.actor, act=act
            )
        except RequestKnownError:
            return None
        if isinstance(applied, Refusal):
            return applied
        assert applied.entry is not None
        return PurchaseAttempt(
            move_id, 1, new.account_id, applied.entry.seq, reward.batch_id, new.client_id, new.customer, key_hash,
            new.actor.api_key_id or 0, applied.entry.occurred_at, give_up_at,
        )  # fmt: skip

    async def _continue(self, attempt: PurchaseAttempt, code: str | None) -> None:
        answer = await self._ask(attempt) if code is None else Answer(Outcome.REPLAYED, code)
        await self._settle(attempt, answer)

    async def _ask(self, attempt: PurchaseAttempt) -> Answer:
        """Ask the engine for the code, unless the lease is too short for that by now.

        Without the text of the customer's id, which is the member's ref: the ledger would record it, also behind an
        erasure of the member.
        """
        now = asyncio.get_running_loop().time()
        if now >= attempt.give_up_at:
            return NOT_READY
        return await self._engine.redeem(
            self._engine.pool_ref(attempt.batch_id, attempt.client_id),
            attempt.customer.packed,
            api_key_id=attempt.api_key_id,
            idempotency_key=str(attempt.move_id),
            give_up_at=attempt.give_up_at,
        )

    async def _settle(self, attempt: PurchaseAttempt, answer: Answer) -> None:
        """Store the code, or give the points back. An unknown outcome changes nothing: a later attempt finds out."""
        if answer.outcome in ISSUED:
            await finish_purchase(self._stores.postgres, attempt.move_id, answer.code)
        elif answer.outcome is Outcome.KEY_REUSED:
            raise RuntimeError(f"the code of move {attempt.move_id} was issued from another pool")
        elif answer.outcome not in UNKNOWN:
            undo = Undo(attempt.seq, reason=str(answer.outcome).lower(), move_id=attempt.move_id)
            act = UndoPurchase(attempt.move_id, attempt.number, str(answer.outcome).lower())
            try:
                undone: Applied | Refusal = await self._executor.execute(
                    attempt.account_id, undo, client_id=attempt.client_id, act=act
                )
            except StaleAttemptError:
                return
            if isinstance(undone, Refusal) and undone.code is not RefusalCode.MOVE_SETTLED:
                raise RuntimeError(f"the points of move {attempt.move_id} cannot be restored: {undone.code}")

    async def _find_known(self, request: RequestKey) -> Bought | None:
        """Return the purchase that was begun with this key, once it is settled; None: there is none to repeat.

        One that is not settled in time is returned as it is. Raises RequestKeyReusedError.
        """
        row = await find_request(self._stores.postgres, request.hashed)
        if row is None:
            return None
        if row["request_sha256"] != request.request_sha256:
            raise RequestKeyReusedError("idempotency key was used with another request")
        return await self._await_settled(row["move_id"])

    async def _await_settled(self, move_id: UUID) -> Bought | None:
        give_up_at = asyncio.get_running_loop().time() + self._timeout_s
        while True:
            purchase: Purchase = await find_purchase(self._stores.postgres, move_id)
            if purchase.is_settled or asyncio.get_running_loop().time() > give_up_at:
                # One that was undone has released its key: this request tries again.
                return None if purchase.refusal is not None else Bought(purchase, replayed=True)
            await asyncio.sleep(POLL_S)


def _report(attempts: Sequence[PurchaseAttempt], failures: Sequence[BaseException | None]) -> None:
    """Log the moves that failed by themselves. Each is tried again after its lease and keeps no other one waiting."""
    for attempt, failure in zip(attempts, failures, strict=True):
        if isinstance(failure, Exception) and not isinstance(
            failure, (PostgresUnavailableError, RedisUnavailableError)
        ):
            log.error(
                "cannot settle a purchase; retrying", move_id=str(attempt.move_id), attempt=attempt.number,
                exc_info=failure,
            )  # fmt: skip
