"""The hot path: gathers redemptions that arrive while a script call is in flight and sends them as the next call.

One EVALSHA carries up to MAX_IN_CALL redemptions of one partition; the calls of all partitions go out in one
pipeline over one fenced connection. A call has an id; when its outcome is unknown (connection lost, no answer) the very
same call is sent again until its deadline, and the script recognises it. Nothing waits longer than
`redeem_timeout_ms`, and no more than `max_waiting` redemptions wait.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from redis.exceptions import NoScriptError, RedisError

from issuer.contract.events import encode_who
from issuer.contract.keys import batch_keys, idempotency_hash, partition_of
from issuer.contract.outcomes import Outcome
from issuer.contract.scripts import LEASE_TOKENS, REDEEM
from issuer.engine.calls import (
    NOT_READY,
    NOT_REPLICATED,
    OVERLOADED,
    Answer,
    Call,
    PoolRef,
    Slot,
    Waiting,
    parse_answers,
)
from issuer.engine.testimony import Testimony
from issuer.journal.segments import Journal, Receipt
from issuer.settings import Settings
from issuer.storage.incarnation import Incarnations
from issuer.storage.redis_link import Link, NotReadyError, RedisRefusedError, RedisUnavailableError, Value, time_ms

log = structlog.get_logger()

MAX_IN_CALL: Final = 128
MAX_IN_PIPELINE: Final = 1024
MAX_DEADLINE_MS: Final = 10_000
RECONNECT_EVERY_S: Final = 0.05
CLOCK_ALARM_MS: Final = 5_000
_SCRIPTS: Final = (REDEEM, LEASE_TOKENS)


class PiggybackedCommands(Protocol):
    """Commands that are worth no round trip of their own: they travel with the next pipeline. Nothing may raise."""

    @property
    def waits(self) -> bool:
        """Whether there is anything to send."""
        ...

    def commands(self) -> list[Sequence[Value]]:
        """What is sent now. It is never sent again: its replies come to `settle`, or `fail` is called."""
        ...

    def settle(self, replies: Sequence[Any]) -> None:
        """The replies in order, errors of Redis among them."""
        ...

    def fail(self) -> None:
        """Redis is away: nothing comes back, and what was not sent will not be."""
        ...


class Engine:
    """Gathers redemptions into script calls. One per process; everything on one event loop."""

    def __init__(self, settings: Settings, incarnations: Incarnations, journal: Journal | None = None) -> None:
        self._settings = settings
        self._incarnations = incarnations
        self._journal = journal
        self._link = Link(settings, incarnations)
        self._queue: deque[Waiting] = deque()
        self._piggyback: PiggybackedCommands | None = None
        self._arrived = asyncio.Event()
        self._connected = False
        self._stale = False
        self._timeout_s = settings.redeem_timeout_ms / 1000
        self._max_waiting = settings.max_waiting
        self._waits = settings.wait_replicas
        self._wait_timeout_s = settings.wait_timeout_ms / 1000 if settings.wait_replicas else 0.0
        self._call_prefix = os.urandom(8).hex()
        self._calls = 0
        self._clock_offset_ms: dict[int, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._seen_epoch = 0
        self._seen_ms: dict[int, int] = {}
        self.clock_behind_ms = 0
        self.refused = False
        """Whether Redis' last word on something to write was an error: out of memory, read-only, disk full, …"""
        self.detached = asyncio.Event()
        incarnations.on_change(self.doubt)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="redeem-engine")

    async def aclose(self) -> None:
        """Lets what is in flight finish, within the redeem time-out; what still waits then is answered NOT_READY."""
        if self._task is not None:
            limit = asyncio.get_running_loop().time() + self._timeout_s
            while self._queue and asyncio.get_running_loop().time() < limit and not self._task.done():
                await asyncio.sleep(0.005)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.slot.done():
                waiting.slot.set_result(NOT_READY)
        await self._link.aclose()

    @property
    def is_ready(self) -> bool:
        """Whether a fenced connection to the blessed server is open."""
        return self._connected and not self._stale

    @property
    def is_connected(self) -> bool:
        """Whether what is asked now will be sent: False once a connection was lost and could not be opened anew."""
        return self._connected

    def carry(self, rider: PiggybackedCommands) -> None:
        """From now on its commands travel with the pipelines."""
        self._piggyback = rider

    def wake(self) -> None:
        """There is something to send."""
        self._arrived.set()

    @property
    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def pool_ref(self, batch_id: UUID, client_id: UUID, *, flags: int = 0) -> PoolRef:
        """The place of a (batch, client), whether or not there is such a batch. `flags` as PoolRef has them."""
        partition = partition_of(batch_id, self._incarnations.partitions)
        keys = batch_keys(partition, batch_id)
        return PoolRef(partition, keys, keys.pool(client_id), keys.codes(client_id), flags)

    async def redeem(
        self, pool: PoolRef, customer_id: bytes | None, *, api_key_id: int = 0, idempotency_key: str | None = None
    ) -> Answer:
        """Asks for one code of `pool` for a customer (16 bytes; None: nobody, no limits apply).

        Never raises for trouble with Redis: NOT_READY, OVERLOADED and NOT_REPLICATED are answers. After NOT_READY
        the outcome may be unknown; the same idempotency key tells.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.submit(future, pool, customer_id, api_key_id, idempotency_key)
        return await future

    def submit(
        self,
        slot: Slot,
        pool: PoolRef,
        customer_id: bytes | None,
        api_key_id: int,
        idempotency_key: str | None,
        asked: bytes = b"",
        order: bytes = b"",
    ) -> None:
        """The same without a coroutine: the answer is put into `slot`, at once or when it is there.

        `asked` (`coupon_wish`) and `order` (`encode_order`): for a `pool` with the flag USE or LOOK, and no other.
        """
        if not self._connected:
            slot.set_result(NOT_READY)
            return
        if len(self._queue) >= self._max_waiting:
            slot.set_result(OVERLOADED)
            return
        key_hash = None
        if idempotency_key is not None:
            key_hash = idempotency_hash(customer_id, idempotency_key)
        who = encode_who(customer_id, api_key_id, key_hash)
        if asked:
            who = asked + who + order
        give_up_at = asyncio.get_running_loop().time() + self._timeout_s
        if not self._queue:
            # With others in the queue the engine is awake: it sends until the queue is empty.
            self._arrived.set()
        self._queue.append(Waiting(pool, customer_id, who, key_hash, give_up_at, slot))

    def testimony(self) -> Testimony:
        """What this process was told by the server of the present epoch, or of the last one."""
        return Testimony(self._seen_epoch, self._link.run_id, self._link.is_open, dict(self._seen_ms))

    def doubt(self) -> None:
        """Opens the connection anew, which checks the server, before anything else is asked."""
        self._stale = True
        self._arrived.set()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._work()
                except Exception:
                    # What ended here nobody would begin anew. Who waits gets an answer, the next one a new connection.
                    log.exception("the engine has met what it does not know, and begins anew")
                    await self._link.close()
                    self._detach()
                    await asyncio.sleep(RECONNECT_EVERY_S)
        finally:
            self._connected = False
            self._fail_queue()

    async def _work(self) -> None:
        while True:
            if self._stale or not self._link.is_open:
                await self._reconnect()
                # Somebody may have waited all that time, and nobody else may come.
                self._arrived.set()
            await self._arrived.wait()
            self._arrived.clear()
            while not self._stale and (self._queue or (self._piggyback is not None and self._piggyback.waits)):
                await self._exchange(self._gather())

    async def _reconnect(self) -> None:
        """Opens a fenced connection, however long that takes; after a first failure redemptions are refused at once."""
        while True:
            self._stale = False
            try:
                await self._open()
            except RedisUnavailableError:
                self._detach()
                await asyncio.sleep(RECONNECT_EVERY_S)
            else:
                if not self._stale:
                    self._connected = True
                    return

    async def _open(self) -> None:
        try:
            await self._link.open()
        except NotReadyError:
            self._incarnations.wake.set()
            raise
        scripts = [("SCRIPT", "LOAD", script.text) for script in _SCRIPTS]
        *loads, now = await self._link.call([*scripts, ("TIME",)], timeout_s=1.0)
        for reply in (*loads, now):
            if isinstance(reply, Exception):
                await self._link.close()
                raise RedisRefusedError(str(reply)) from reply
        offset = time_ms(now) - time.monotonic() * 1000
        self._clock_offset_ms = dict.fromkeys(range(self._incarnations.partitions), offset)
        assert self._link.blessed is not None
        if self._link.blessed.epoch != self._seen_epoch:
            self._seen_epoch, self._seen_ms = self._link.blessed.epoch, {}
        self.detached.clear()

    def _detach(self) -> None:
        """Without a connection nobody waits, neither for an answer nor for our word on the server."""
        self._connected = False
        self.detached.set()
        self._fail_queue()

    def _fail_queue(self) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.slot.done():
                waiting.slot.set_result(NOT_READY)
        if self._piggyback is not None:
            self._piggyback.fail()

    def _gather(self) -> list[Call]:
        """The next pipeline's worth of calls: everything that waits, in order of arrival, up to the limits."""
        now = asyncio.get_running_loop().time()
        by_partition: dict[int, list[Waiting]] = {}
        calls: list[Call] = []
        for _ in range(min(len(self._queue), MAX_IN_PIPELINE)):
            waiting = self._queue.popleft()
            if waiting.slot.done():
                continue  # the request was cancelled; nothing was sent for it
            if waiting.give_up_at <= now:
                waiting.slot.set_result(NOT_READY)
                continue
            some = by_partition.setdefault(waiting.pool.partition, [])
            some.append(waiting)
            if len(some) == MAX_IN_CALL:
                calls.append(self._call(waiting.pool.partition, by_partition.pop(waiting.pool.partition)))
        calls.extend(self._call(partition, some) for partition, some in by_partition.items())
        return calls

    def _call(self, partition: int, waiting: list[Waiting]) -> Call:
        self._calls += 1
        call = Call(partition, f"{self._call_prefix}{self._calls:016x}", waiting)
        self._set_deadline(call)
        return call

    def _set_deadline(self, call: Call) -> None:
        left_ms = (call.waiting[0].give_up_at - asyncio.get_running_loop().time()) * 1000
        now_ms = time.monotonic() * 1000 + self._clock_offset_ms[call.partition]
        call.deadline_ms = int(now_ms + min(left_ms, MAX_DEADLINE_MS))

    async def _exchange(self, calls: list[Call]) -> None:
        """Sends calls until each is answered or its requests have waited long enough."""
        try:
            pending = await self._attempt(calls)
            while pending:
                pending = await self._attempt(pending)
        finally:
            # Out of time, cancelled or broken: the requests of such a call are answered, not left without an end.
            for call in calls:
                if not call.is_answered:
                    call.answer_all(NOT_READY)

    async def _attempt(self, calls: list[Call]) -> list[Call]:
        """One round trip. Returns the calls that must be sent again."""
        loop = asyncio.get_running_loop()
        # A rider may be alone.
        give_up_at = max((call.waiting[0].give_up_at for call in calls), default=loop.time() + self._timeout_s)
        left_s = give_up_at - loop.time()
        if left_s <= 0:
            return []
        try:
            if not self._link.is_open or self._stale:
                self._connected = False
                self._stale = False
                async with asyncio.timeout(left_s):
                    await self._open()
                left_s = give_up_at - loop.time()
            assert self._link.blessed is not None
            commands: list[Sequence[Value]] = [call.command(self._link.blessed.epoch) for call in calls]
            if self._piggyback is not None and self._piggyback.waits:
                commands += self._piggyback.commands()
            if not commands:
                return []
            riding = slice(len(calls), len(commands))
            if self._waits and calls:
                commands.append(("WAIT", self._waits, self._settings.wait_timeout_ms))
            replies = await self._link.call(commands, timeout_s=left_s + self._wait_timeout_s)
        except (RedisUnavailableError, TimeoutError):
            # Not known whether it ran. The same call again: the script recognises it.
            self._detach()
            await asyncio.sleep(min(RECONNECT_EVERY_S, max(left_s, 0)))
            return calls
        self._connected = True
        if self._journal is not None:
            self._write_receipts(self._journal, calls, replies)
        enough = not self._waits or (isinstance(replies[-1], int) and replies[-1] >= self._waits)
        again = [call for call, reply in zip(calls, replies, strict=False) if not self._settle(call, reply, enough)]
        if self._piggyback is not None and replies[riding]:
            self._piggyback.settle(replies[riding])
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self._load_scripts(left_s)
        return again

    def _write_receipts(self, journal: Journal, calls: list[Call], replies: list[Any]) -> None:
        """The second copy of what was handed out, before anybody is told."""
        assert self._link.blessed is not None
        receipts = []
        for call, reply in zip(calls, replies, strict=False):
            if isinstance(reply, Exception) or reply[0] not in (b"DONE", b"REPEATED") or not (data := reply[2]):
                continue
            now_ms = reply[1].partition(b"\x1e")[0]
            receipts.append(Receipt(self._link.blessed.epoch, call.partition, int(now_ms), call.call_id, data))
        if receipts:
            journal.append(receipts)

    async def _load_scripts(self, timeout_s: float) -> None:
        with suppress(RedisUnavailableError):
            await self._link.call([("SCRIPT", "LOAD", script.text) for script in _SCRIPTS], timeout_s=timeout_s)

    def _settle(self, call: Call, reply: Any, replicated: bool) -> bool:
        """Gives a call's answers out. False: nothing ran (or it is not known), and the call should be sent again."""
        if isinstance(reply, NoScriptError):
            return False
        if isinstance(reply, RedisError):
            # Refused before the first write: out of memory, read-only, loading, … Nothing happened.
            if not self.refused:
                log.warning("redis refuses calls", error=str(reply))
            self.refused = True
            call.answer_all(NOT_READY)
            return True
        status = reply[0]
        if status == b"TOO_LATE":
            # Nothing ran now. It is late, or the clock is ahead of what we thought: then once more, but not when it
            # was sent before and may have run then, on the other side of a clock that jumped.
            self._clock_offset_ms[call.partition] = int(reply[1]) - time.monotonic() * 1000
            if call.times_sent > 1 or call.waiting[0].give_up_at <= asyncio.get_running_loop().time():
                return True
            self._set_deadline(call)
            return False
        if status == b"STALE_EPOCH":
            self._stale = True
            self._incarnations.wake.set()
            call.answer_all(NOT_READY)
            return True
        if status not in (b"DONE", b"REPEATED"):
            raise ValueError(f"redeem.lua answered {status!r}, which is not known")
        self._give_out(call, reply, replicated)
        return True

    def _give_out(self, call: Call, reply: list[bytes], replicated: bool) -> None:
        now_ms, entry_id, joined = reply[1].split(b"\x1e", 2)
        if entry_id:
            self.refused = False
            self._seen_ms[call.partition] = max(self._seen_ms.get(call.partition, 0), int(now_ms))
        if len(reply) > 3:
            self._note_clock(call.partition, int(now_ms), int(reply[3]))
        for waiting, answer in zip(call.waiting, parse_answers(joined), strict=True):
            if waiting.slot.done():
                continue
            if not replicated and answer.outcome in (Outcome.GRANTED, Outcome.REPLAYED):
                answer = NOT_REPLICATED
            waiting.slot.set_result(answer)
        # Last: an answer that cannot be parsed leaves the call to `answer_all`.
        call.is_answered = True

    def _note_clock(self, partition: int, now_ms: int, host_ms: int) -> None:
        # A deadline is measured by the host's clock, which may have stepped back behind the partition's.
        self._clock_offset_ms[partition] = host_ms - time.monotonic() * 1000
        behind_ms = now_ms - host_ms
        if behind_ms > CLOCK_ALARM_MS and self.clock_behind_ms <= CLOCK_ALARM_MS:
            log.error("redis' clock has stepped back; limits go on from the time it had", behind_ms=behind_ms)
        self.clock_behind_ms = behind_ms
