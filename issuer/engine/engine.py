"""The hot path: gathers the requests that arrive while a script call is in flight and sends them as the next call.

One EVALSHA carries up to MAX_IN_CALL requests of one partition; the calls of all partitions are sent in one pipeline.
So a process has one round trip in flight, and the more requests arrive during it, the more of them share the next one.
No request waits longer than `redeem_timeout_ms`, and at most `max_waiting` requests wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Final
from uuid import UUID

import structlog

from issuer.contract.events import MAX_IN_CALL, encode_who
from issuer.contract.keys import NO_API_KEY, batch_keys, idempotency_hash, partition_of
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import NOT_READY, OVERLOADED, Answer, Call, PoolRef, Slot, Waiting
from issuer.engine.piggyback import PiggybackedCommands
from issuer.engine.sender import RECONNECT_EVERY_S, CallSender
from issuer.engine.testimony import Testimony
from issuer.journal.journal import Journal, JournalError
from issuer.settings import Settings
from issuer.storage.ending import end_tasks
from issuer.storage.incarnation import Incarnations

log = structlog.get_logger()

MAX_IN_PIPELINE: Final = 1024
HOLD_S: Final = 0.05
"""How long a refusal waits while there is no connection. Clients that repeat at once, in spite of Retry-After, would
otherwise take the processor from the recovery that they wait for."""


class Engine:
    """Gathers requests into script calls. One per process; everything runs on one event loop.

    It calls no script before `enter`: the process has to be registered for the epoch.
    """

    def __init__(self, settings: Settings, incarnations: Incarnations) -> None:
        self._incarnations = incarnations
        self._sender = CallSender(settings, incarnations, self._fail_queue)
        self._queue: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._timeout_s = settings.redeem_timeout_ms / 1000
        self._max_waiting = settings.max_waiting
        self._held: list[Slot] = []
        self._now = asyncio.get_running_loop().time
        self._task: asyncio.Task[None] | None = None
        incarnations.on_change(self.doubt)
        incarnations.watch.on_stop(self.doubt)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="redeem-engine")

    def enter(self, epoch: int, journal: Journal | None) -> None:
        """Call scripts in this epoch from now on: this process is registered for it, with this journal or none."""
        self._sender.epoch, self._sender.journal, self._sender.journal_error = epoch, journal, None
        self._sender.is_stale = True
        self._arrived.set()

    async def leave(self) -> Testimony:
        """Close the connection and answer NOT_READY to everything unanswered. Return what was seen: it is final.

        Nothing is sent until the next `enter`.
        """
        self._sender.epoch = 0
        if (task := self._task) is not None:
            # A round trip ends without its replies; what it granted was answered to no caller.
            await end_tasks(task)
            await self._sender.reset()
            await self.start()
        return self._sender.testimony()

    def forget_journal(self) -> None:
        """Forget a journal that failed, and why."""
        self._sender.journal = self._sender.journal_error = None

    @property
    def journal_error(self) -> JournalError | None:
        """Why the journal takes no more receipts. The engine has left its epoch then."""
        return self._sender.journal_error

    async def aclose(self) -> None:
        """Let what is in flight finish, within the redeem time-out, and answer NOT_READY to what still waits then."""
        if self._task is not None:
            limit = asyncio.get_running_loop().time() + self._timeout_s
            while self._queue and asyncio.get_running_loop().time() < limit and not self._task.done():
                await asyncio.sleep(0.005)
            # Behind the last round trip. If it is cancelled within one, `send` answers its calls NOT_READY: they may
            # have run, and the same Idempotency-Key returns what they granted.
            await end_tasks(self._task)
            self._task = None
        self._refuse_held()
        self._answer_queue(NOT_READY)
        await self._sender.aclose()

    @property
    def is_alive(self) -> bool:
        """Whether the task that sends is running, or will be in a moment."""
        return self._task is not None and (self._sender.epoch == 0 or not self._task.done())

    @property
    def is_ready(self) -> bool:
        """Whether a fenced connection to the blessed server is open."""
        return self._sender.is_connected and self._sender.is_admitted and not self._sender.is_stale

    @property
    def is_connected(self) -> bool:
        """Whether requests that are submitted now will be sent."""
        return self._sender.is_connected

    @property
    def is_refused(self) -> bool:
        """Whether Redis' last reply to a write was an error: out of memory, read-only, disk full, …"""
        return self._sender.is_refused

    def note_writable(self) -> None:
        """Note that Redis accepts writes again, as another connection has found."""
        self._sender.is_refused = False

    @property
    def clock_behind_ms(self) -> int:
        """How far the clock of a Redis host is behind the clock of its partition."""
        return self._sender.clock_behind_ms

    @property
    def detached(self) -> asyncio.Event:
        """Set while there is no connection."""
        return self._sender.detached

    def take_answered(self) -> Counter[tuple[str, Outcome]]:
        """Return how many requests the script has answered since the last call, by key of the pool and outcome."""
        taken, self._sender.answered = self._sender.answered, Counter()
        return taken

    def testimony(self) -> Testimony:
        """Return what this process received from the server of the present epoch, or of the last one."""
        return self._sender.testimony()

    def carry(self, piggyback: PiggybackedCommands) -> None:
        """Send the commands of `piggyback` with the pipelines from now on."""
        self._sender.piggyback = piggyback

    def wake(self) -> None:
        """Send piggybacked commands, which are waiting."""
        self._arrived.set()

    def doubt(self) -> None:
        """Open the connection again, which checks its server, before the next call."""
        self._sender.is_stale = True
        self._arrived.set()

    def pool_ref(self, batch_id: UUID, client_id: UUID, *, flags: int = 0) -> PoolRef:
        """Return the location of a (batch, client), whether or not the batch exists. `flags`: see PoolRef."""
        partition = partition_of(batch_id, self._incarnations.partitions)
        keys = batch_keys(partition, batch_id)
        return PoolRef(partition, keys, keys.pool(client_id), keys.codes(client_id), flags)

    async def redeem(
        self,
        pool: PoolRef,
        customer_id: bytes | None,
        *,
        api_key_id: int = 0,
        idempotency_key: str | None = None,
        key_scope: bytes = NO_API_KEY,
        customer_text: str | None = None,
        give_up_at: float | None = None,
    ) -> Answer:
        """Redeem one code of `pool` for a customer (16 bytes; None: without a customer, so without limits).

        Does not raise for a failure of Redis: NOT_READY, OVERLOADED and NOT_REPLICATED are answers. After NOT_READY
        it may be unknown whether a code was issued; a request with the same Idempotency-Key gets it.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.submit(
            future,
            pool,
            customer_id,
            api_key_id,
            idempotency_key,
            key_scope=key_scope,
            customer_text=customer_text,
            give_up_at=give_up_at,
        )
        return await future

    def submit(
        self,
        slot: Slot,
        pool: PoolRef,
        customer_id: bytes | None,
        api_key_id: int,
        idempotency_key: str | None,
        wish: bytes = b"",
        order: bytes = b"",
        key_scope: bytes = NO_API_KEY,
        customer_text: str | None = None,
        give_up_at: float | None = None,
    ) -> None:
        """Submit a request without a coroutine: the answer is put into `slot`, at once or when it arrives.

        `wish` (`coupon_wish`) and `order` (`encode_order`): for a `pool` with the flag USE or LOOK, and for no other.
        `key_scope`: of the Idempotency-Key of a request without a customer (`anonymous_scope`).
        `customer_text`: what the caller gave as the customer's id, for the ledger; None: a UUID.
        `give_up_at`: the time of the event loop after which no script may run for it; None: after the redeem time-out.
        """
        if not self._sender.is_connected:
            self._hold(slot)
            return
        queue = self._queue
        if len(queue) >= self._max_waiting:
            slot.set_result(OVERLOADED)
            return
        key_hash = None
        if idempotency_key is not None:
            key_hash = idempotency_hash(customer_id, idempotency_key, key_scope)
        who = encode_who(customer_id, api_key_id, key_hash, customer_text)
        if wish:
            who = wish + who + order
        if give_up_at is None:
            give_up_at = self._now() + self._timeout_s
        if not queue:
            # With others in the queue the task is awake: it sends until the queue is empty.
            self._arrived.set()
        queue.append(Waiting(pool, customer_id, who, key_hash, give_up_at, slot))

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._work()
                except Exception:
                    # Nothing else would restart this loop: answer the waiting requests, then reconnect.
                    log.exception("redeem engine crashed; reconnecting to Redis")
                    await self._sender.reset()
                    await asyncio.sleep(RECONNECT_EVERY_S)
        finally:
            self._sender.is_connected = False
            self._fail_queue()

    async def _work(self) -> None:
        sender = self._sender
        while True:
            if sender.must_reconnect:
                await sender.reconnect()
                # Requests may have waited since before the connection was lost, and no other one may arrive.
                self._arrived.set()
            await self._arrived.wait()
            # Before the queue is read: a request that arrives during the round trip sets it again.
            self._arrived.clear()
            while not sender.is_stale and (self._queue or (sender.piggyback is not None and sender.piggyback.queue)):
                await sender.send(self._gather())

    def _hold(self, slot: Slot) -> None:
        """Answer NOT_READY in a moment, together with all others that arrive until then."""
        if len(self._held) >= self._max_waiting:
            slot.set_result(NOT_READY)
            return
        if not self._held:
            asyncio.get_running_loop().call_later(HOLD_S, self._refuse_held)
        self._held.append(slot)

    def _refuse_held(self) -> None:
        held, self._held = self._held, []
        for slot in held:
            if not slot.done():
                slot.set_result(NOT_READY)

    def _fail_queue(self) -> None:
        """Answer everything that waits: without a connection nothing of it is sent in time."""
        self._answer_queue(NOT_READY)
        if self._sender.piggyback is not None:
            self._sender.piggyback.fail()

    def _answer_queue(self, answer: Answer) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.slot.done():
                waiting.slot.set_result(answer)

    def _gather(self) -> list[Call]:
        """Return the calls of the next pipeline: all requests that wait, in order of arrival, up to the bounds."""
        now = asyncio.get_running_loop().time()
        by_partition: dict[int, list[Waiting]] = {}
        calls: list[Call] = []
        for _ in range(min(len(self._queue), MAX_IN_PIPELINE)):
            waiting = self._queue.popleft()
            if waiting.slot.done():
                continue  # The request was cancelled. Nothing was sent for it.
            if waiting.give_up_at <= now:
                waiting.slot.set_result(NOT_READY)
                continue
            # In order of arrival within a partition: the first request of a call is its oldest, see `_set_deadline`.
            some = by_partition.setdefault(waiting.pool.partition, [])
            some.append(waiting)
            if len(some) == MAX_IN_CALL:
                partition = waiting.pool.partition
                calls.append(self._sender.new_call(partition, by_partition.pop(partition)))
        calls.extend(self._sender.new_call(partition, some) for partition, some in by_partition.items())
        return calls
