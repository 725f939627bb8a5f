"""Sends script calls over one fenced connection and answers their requests.

One round trip, in this order:

1. send the calls in one pipeline, piggybacked commands behind them, then WAIT if replicas must have them;
2. append a receipt of everything that is answered with a code to the journal;
3. put the answers into their slots.

If the process stops between 2 and 3, there is a receipt of an answer that no client received, which a recovery treats
as a redemption. In the other order a recovery could lose a redemption that a client knows of. What cannot be appended
is therefore not answered.

If the connection is lost between 1 and 2, it is unknown whether the calls ran. The very same calls are sent again, with
the ids they have, until their deadlines: the script recognises a call that it has run, and returns its answers again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.exceptions import NoScriptError, RedisError

from issuer.contract.outcomes import Outcome
from issuer.contract.scripts import LEASE_TOKENS, REDEEM
from issuer.engine.calls import NOT_READY, NOT_REPLICATED, Call, Waiting, parse_answers
from issuer.engine.clocks import PartitionClocks
from issuer.engine.piggyback import PiggybackedCommands
from issuer.engine.receipts import receipts_of
from issuer.engine.testimony import Testimony
from issuer.journal.journal import Journal, JournalError
from issuer.settings import Settings
from issuer.storage.floors import Floors
from issuer.storage.incarnation import Incarnations
from issuer.storage.redis_link import (
    Link,
    NotReadyError,
    RedisRefusedError,
    RedisUnavailableError,
    Value,
    time_ms,
)
from issuer.storage.server_watch import ClockReading

log = structlog.get_logger()

RECONNECT_EVERY_S: Final = 0.05
_SCRIPTS: Final = (REDEEM, LEASE_TOKENS)


class CallSender:
    """Owns the connection of an engine. `on_detach` is called when a connection is lost and not open again yet.

    `is_connected`: requests that are submitted now will be sent; False once a connection was lost and could not be
    opened again at once. `is_stale`: before the next call the connection must be opened again, which checks its server.
    `is_admitted`: the connection was opened and its server checked.
    `is_refused`: Redis' last reply to a write was an error (out of memory, read-only, disk full, …). `detached` is set
    while there is no connection.

    `epoch`: the one that this process is registered for, the only one in which it calls; 0: none. `journal`: takes the
    receipts of that epoch; None: nothing does. `journal_error`: why it takes no more, which ends the registration.

    `answered`: how many requests the script has answered, by key of the pool and outcome, until `Engine.take_answered`.
    """

    def __init__(
        self,
        settings: Settings,
        incarnations: Incarnations,
        on_detach: Callable[[], None],
    ) -> None:
        self._incarnations = incarnations
        self._on_detach = on_detach
        self._link = Link(settings, incarnations)
        self._timeout_s = settings.redeem_timeout_ms / 1000
        self._replicas = settings.wait_replicas
        self._replicas_timeout_ms = settings.wait_timeout_ms
        self._wait_timeout_s = settings.wait_timeout_ms / 1000 if settings.wait_replicas else 0.0
        self._call_prefix = os.urandom(8).hex()
        self._calls = 0
        self._clocks = PartitionClocks()
        self._sent_at_s = 0.0
        self._floors = Floors(0, 0)
        self.piggyback: PiggybackedCommands | None = None
        self.is_connected = False
        self.is_stale = False
        self.is_admitted = False
        self.is_refused = False
        self.detached = asyncio.Event()
        self.epoch = 0
        self.journal: Journal | None = None
        self.journal_error: JournalError | None = None
        self.answered: Counter[tuple[str, Outcome]] = Counter()

    @property
    def must_reconnect(self) -> bool:
        return self.is_stale or not self._link.is_open

    @property
    def clock_behind_ms(self) -> int:
        """How far the clock of a Redis host is behind the clock of its partition."""
        return self._clocks.behind_ms

    def testimony(self) -> Testimony:
        """Return what this process has seen of the data of the present epoch, or of the last one."""
        return Testimony(self._floors.epoch, self._link.run_id, self._link.is_open, *self._floors.to_json())

    async def aclose(self) -> None:
        await self._link.aclose()

    async def reset(self) -> None:
        """Drop the connection after an unforeseen exception: replies of the interrupted call may still arrive on it."""
        await self._link.close()
        self._detach()

    async def reconnect(self) -> None:
        """Open a fenced connection, however long that takes. After a first failure requests are refused at once."""
        while True:
            # Before the connection opens: a doubt that is raised while it does must not be lost.
            self.is_stale = False
            try:
                await self._open()
            except RedisUnavailableError:
                self._detach()
                await asyncio.sleep(RECONNECT_EVERY_S)
            else:
                if not self.is_stale:
                    self.is_connected = True
                    return

    async def _open(self) -> None:
        self.is_admitted = False
        blessed = self._incarnations.blessed
        if blessed is not None and blessed.epoch != self.epoch:
            await self._link.close()
            raise RedisUnavailableError(f"this process is not registered for epoch {blessed.epoch} (yet)")
        try:
            await self._link.open()
        except NotReadyError:
            self._incarnations.wake.set()
            raise
        assert self._link.blessed is not None
        if self._link.blessed.epoch != self.epoch:
            await self._link.close()
            raise RedisUnavailableError("this process is not registered for the epoch of this server (yet)")
        scripts = [("SCRIPT", "LOAD", script.text) for script in _SCRIPTS]
        began_s = time.monotonic()
        *loads, now = await self._link.call([*scripts, ("TIME",)], timeout_s=1.0)
        for reply in (*loads, now):
            if isinstance(reply, Exception):
                await self._link.close()
                raise RedisRefusedError(str(reply)) from reply
        reading = ClockReading.of(time_ms(now), began_s, time.monotonic())
        self._incarnations.watch.judge_clock(reading)
        if stopped := self._incarnations.watch.stopped:
            await self._link.close()
            raise NotReadyError(stopped)
        self._clocks.set_all(self._incarnations.partitions, reading)
        self._floors = self._incarnations.floors_of(self._link.blessed.epoch)
        self.is_admitted = True
        self.detached.clear()

    def _detach(self) -> None:
        self.is_connected = False
        self.detached.set()
        self._on_detach()

    def new_call(self, partition: int, waiting: list[Waiting]) -> Call:
        """Return a call for these requests, with an id of its own. It is kept across repeats."""
        self._calls += 1
        call = Call(partition, f"{self._call_prefix}{self._calls:016x}", waiting)
        self._set_deadline(call)
        return call

    def _set_deadline(self, call: Call) -> None:
        # The first request is the oldest one. Behind its time-out nothing of the call may run.
        left_s = call.waiting[0].give_up_at - asyncio.get_running_loop().time()
        call.deadline_ms = self._clocks.deadline_ms(call.partition, left_s)

    async def send(self, calls: list[Call]) -> None:
        """Send calls until each is answered or its requests have waited long enough. Raises what is unforeseen."""
        try:
            pending = await self._attempt(calls)
            while pending:
                pending = await self._attempt(pending)
        finally:
            # Out of time, cancelled or broken: the requests of such a call get an answer in any case.
            for call in calls:
                if not call.is_answered:
                    call.answer_all(NOT_READY)

    async def _attempt(self, calls: list[Call]) -> list[Call]:
        """Make one round trip. Returns the calls that must be sent again."""
        loop = asyncio.get_running_loop()
        # Piggybacked commands may travel without a call.
        give_up_at = max((call.waiting[0].give_up_at for call in calls), default=loop.time() + self._timeout_s)
        left_s = give_up_at - loop.time()
        if left_s <= 0:
            return []
        try:
            if self.must_reconnect:
                self.is_connected = self.is_stale = False
                async with asyncio.timeout(left_s):
                    await self._open()
                left_s = give_up_at - loop.time()
            assert self._link.blessed is not None
            epoch, serials, beats = self._link.blessed.epoch, self._floors.serials, self._floors.beats
            commands: list[Sequence[Value]] = [
                call.command(epoch, serials[call.partition], beats[call.partition]) for call in calls
            ]
            if self.piggyback is not None and self.piggyback.queue:
                commands += self.piggyback.commands()
            if not commands:
                return []
            piggybacked = slice(len(calls), len(commands))
            if self._replicas and calls:
                commands.append(("WAIT", self._replicas, self._replicas_timeout_ms))
            self._sent_at_s = time.monotonic()
            replies = await self._link.call(commands, timeout_s=left_s + self._wait_timeout_s)
        except (RedisUnavailableError, TimeoutError):
            self._detach()
            if self._incarnations.watch.stopped:
                # Not later either: on a clock that jumped, what a call left behind may have expired.
                return []
            # It is unknown whether the calls ran. They are sent again as they are: the script recognises them.
            await asyncio.sleep(min(RECONNECT_EVERY_S, max(left_s, 0)))
            return calls
        self.is_connected = True
        # Before the first answer: see above.
        if self.journal is not None and not self._write_receipts(self.journal, calls, replies):
            return []
        enough = not self._replicas or (isinstance(replies[-1], int) and replies[-1] >= self._replicas)
        again = [call for call, reply in zip(calls, replies, strict=False) if not self._settle(call, reply, enough)]
        if self.piggyback is not None and replies[piggybacked]:
            self.piggyback.settle(replies[piggybacked])
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self._load_scripts(left_s)
        return again

    def _write_receipts(self, journal: Journal, calls: list[Call], replies: list[Any]) -> bool:
        """Append the receipts of these replies. False: that failed, and nothing of these calls may be answered.

        What they granted stays granted: the same Idempotency-Key gets it. The registration ends, for its journal would
        lack what is answered from here on.
        """
        receipts = []
        for call, reply in zip(calls, replies, strict=False):
            if not isinstance(reply, Exception) and reply[0] in (b"DONE", b"REPEATED"):
                receipts += receipts_of(call, reply)
        try:
            if receipts:
                journal.append(receipts)
        except JournalError as error:
            self.epoch, self.is_stale, self.journal_error = 0, True, error
            return False
        return True

    async def _load_scripts(self, timeout_s: float) -> None:
        with suppress(RedisUnavailableError):
            await self._link.call([("SCRIPT", "LOAD", script.text) for script in _SCRIPTS], timeout_s=timeout_s)

    def _settle(self, call: Call, reply: Any, replicated: bool) -> bool:
        """Answer the requests of a call. False: nothing ran, or that is unknown, and the call must be sent again."""
        if isinstance(reply, NoScriptError):
            return False
        if isinstance(reply, RedisError):
            # The script failed before its first write (out of memory, read-only, loading, …), so nothing was granted.
            if not self.is_refused:
                log.warning("Redis refuses script calls; redemptions get a 503 until it accepts one", error=str(reply))
            self.is_refused = True
            call.answer_all(NOT_READY)
            return True
        status = reply[0]
        if status == b"TOO_LATE":
            if not self._clocks.correct(call.partition, int(reply[1]), self._sent_at_s):
                # A clock that jumped decides nothing until it is found right, which the opening of a connection needs.
                reading = ClockReading.of(int(reply[1]), self._sent_at_s, time.monotonic())
                self._incarnations.watch.judge_clock(reading)
                self.is_stale = True
                call.answer_all(NOT_READY)
                return True
            # Nothing ran now. If the host's clock is ahead of its known offset, the call is sent once more. Not if it
            # was sent before: it may have run then, and the answer it left may be past its time on a clock that jumped.
            if call.times_sent > 1 or call.waiting[0].give_up_at <= asyncio.get_running_loop().time():
                return True
            self._set_deadline(call)
            return False
        if status in (b"STALE_EPOCH", b"BEHIND"):
            # The data set was replaced behind this connection, by that of another epoch or by older data of the same.
            # Only the fence can say by what; data that are behind are recovered, and no call is granted until then.
            self.is_stale = True
            self._incarnations.wake.set()
            call.answer_all(NOT_READY)
            return True
        if status not in (b"DONE", b"REPEATED"):
            raise ValueError(f"redeem.lua returned {status!r}, which is no known status")
        self._answer(call, reply, replicated)
        return True

    def _answer(self, call: Call, reply: list[bytes], replicated: bool) -> None:
        """Put the answers of the script into the slots of a call."""
        head, entry_id, joined = reply[1].split(b"\x1e", 2)
        now, _, serial, facts = head.split(b" ")
        now_ms = int(now)
        self._floors.see(call.partition, int(serial) + int(facts) - 1)
        if entry_id:
            self.is_refused = False
        if len(reply) > 3:
            host_ms = int(reply[3])
            self._clocks.correct(call.partition, host_ms, self._sent_at_s)
            self._clocks.note(call.partition, now_ms, host_ms)
        answers = parse_answers(joined, now_ms)
        # In one step for the whole call, in C: a look-up and an addition for each request.
        self.answered.update([(w.pool.pool_key, a.outcome) for w, a in zip(call.waiting, answers, strict=True)])
        for waiting, answer in zip(call.waiting, answers, strict=True):
            if waiting.slot.done():
                continue
            # Granted, but perhaps lost with the primary: the client may ask again with the same Idempotency-Key.
            if not replicated and answer.outcome in (Outcome.GRANTED, Outcome.REPLAYED):
                answer = NOT_REPLICATED
            waiting.slot.set_result(answer)
        # Last: an answer that cannot be parsed leaves the call to `answer_all`.
        call.is_answered = True
