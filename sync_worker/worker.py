"""The worker's loop: read entries, write them to Postgres, only then acknowledge them. It does not decode them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from issuer.ledger.entries import StreamEntry
from issuer.ledger.record import RecordResult
from issuer.storage.lineage import IncidentError
from issuer.storage.redis_link import RedisUnavailableError
from sync_worker.reader import EntryBatch, StreamReader
from sync_worker.writer import WRITE_ERRORS, ForeignIncarnationError, LedgerWriter

log = structlog.get_logger()

BATCH_SIZE: Final = 5_000
"""Redemptions that a transaction should have when there are enough."""
SMALL_BATCH: Final = 500
LINGER_S: Final = 0.03
"""Pause after a small batch: the next batch is larger, and a commit costs the same for both."""
LOOK_BACK_EVERY_S: Final = 1.0
BACK_OFF_S: Final = (0.05, 5.0)
"""First and longest pause after an error."""


@dataclass(slots=True)
class WorkerProgress:
    """What the worker has done, and the error that blocks it, for its heartbeat.

    `newer`: how often it has left an event to a worker of a later version.
    """

    inserted: int = 0
    duplicates: int = 0
    anomalies: int = 0
    dead_letters: int = 0
    transactions: int = 0
    newer: int = 0
    error: str = ""
    errors: int = 0

    def add(self, recorded: RecordResult) -> None:
        self.inserted += recorded.inserted
        self.duplicates += recorded.duplicates
        self.anomalies += recorded.anomalies
        self.dead_letters += recorded.dead_letters
        self.transactions += 1


@dataclass(slots=True)
class BackOff:
    """Growing pauses with jitter, which end early when the worker stops, or when `cause` is set: it may work now."""

    stopping: asyncio.Event
    cause: asyncio.Event = field(default_factory=asyncio.Event)
    pause_s: float = field(default=BACK_OFF_S[0])

    def reset(self) -> None:
        self.pause_s = BACK_OFF_S[0]

    async def wait(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self.stopping, self.cause)]
        try:
            limit_s = self.pause_s * random.uniform(0.5, 1.0)
            await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.cause.is_set():
            self.cause.clear()
            self.reset()
        else:
            self.pause_s = min(self.pause_s * 2, BACK_OFF_S[1])


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, but not longer than until the worker stops."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


class Worker:
    """The loop that records events in the ledger until it is stopped. Any number of workers may share the streams."""

    def __init__(self, reader: StreamReader, writer: LedgerWriter, stopping: asyncio.Event) -> None:
        self._reader = reader
        self._writer = writer
        self._stopping = stopping
        self.progress = WorkerProgress()
        self._redis_back_off = BackOff(stopping)
        self._look_back_at = 0.0
        self._per_entry = 1.0
        self._busy_partitions = 1

    async def run(self) -> None:
        """Work until `stopping` is set, then finish the current batch and return."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._step()
                    self._redis_back_off.reset()
                except RedisUnavailableError as error:
                    await self._reader.close()
                    self._note_error("Redis", error)
                    await self._redis_back_off.wait()
        finally:
            await self._reader.close()
            await self._writer.close()

    async def _step(self) -> None:
        if not self._reader.is_open:
            await self._reader.open()
            self._look_back_at = 0.0
            log.info("reading the streams", consumer=self._reader.name, epoch=self._reader.blessed.epoch)
        count = self._count()
        if time.monotonic() >= self._look_back_at:
            await self._look_back(count)
        batch = await self._reader.read_new(count, block=True)
        self._learn(batch)
        redemptions = await self._settle(batch)
        if 0 < redemptions < SMALL_BATCH:
            await pause(self._stopping, LINGER_S)

    async def _look_back(self, count: int) -> None:
        """Settle entries that no read of new ones returns: read on a lost connection, or by a worker that is dead."""
        while batch := await self._reader.read_own(count):
            await self._settle(batch)
            if self._stopping.is_set() or not self._reader.is_open:
                return
        batch = await self._reader.claim(count)
        if batch.entries:
            log.info("claimed entries of a silent worker", entries=len(batch.entries))
        await self._settle(batch)
        if not self._reader.more_to_claim:
            self._look_back_at = time.monotonic() + LOOK_BACK_EVERY_S

    def _count(self) -> int:
        """Return how many entries to read from each partition to come near BATCH_SIZE redemptions in all."""
        return max(1, round(BATCH_SIZE / (self._per_entry * self._busy_partitions)))

    def _learn(self, batch: EntryBatch) -> None:
        if batch.entries:
            self._busy_partitions = len({entry.partition for entry in batch.entries})
            mean = sum(entry.announced for entry in batch.entries) / len(batch.entries)
            self._per_entry = max(1.0, 0.7 * self._per_entry + 0.3 * mean)

    async def _settle(self, batch: EntryBatch) -> int:
        """Write and then acknowledge a batch, one transaction at a time. Return the number of redemptions in it."""
        total = 0
        if batch.newer:
            await self._leave_to_newer(batch.newer)
        for part in _parts(batch):
            # Stopped between these two, the entries are read again and found in the ledger.
            token = await self._write(part)
            if token is None:
                break
            removed = await self._reader.ack(part, token)
            log.debug("entries recorded and acknowledged", entries=len(part.entries), removed=removed)
            total += sum(entry.announced for entry in part.entries)
        return total

    async def _leave_to_newer(self, entries: Sequence[StreamEntry]) -> None:
        # Never a dead letter: that would leave the stream, and the bound of the backlog with it.
        await self._reader.leave_to_newer(entries)
        if not self.progress.newer:
            log.error(
                "events of a later version are in the stream; they stay there until a worker of that version runs",
                partition=entries[0].partition, stream_id=entries[0].stream_id,
            )  # fmt: skip
        self.progress.newer += len(entries)

    async def _write(self, batch: EntryBatch) -> UUID | None:
        """Write a batch, and wait as long as Postgres is unavailable, or an incident lasts.

        Return the token of the commit. None: the batch must not be acknowledged.
        """
        back_off = BackOff(self._stopping)
        while True:
            if not self._reader.is_open:
                return None
            try:
                recorded, token = await self._writer.write(self._reader.blessed, batch.entries, batch.vanished)
                self.progress.add(recorded)
                self.progress.error = ""
                return token
            except ForeignIncarnationError as error:
                log.warning("dropping entries of a foreign incarnation", entries=len(batch.entries), reason=str(error))
                await self._reader.close()
                await self._redis_back_off.wait()
                return None
            except (IncidentError, *WRITE_ERRORS) as error:
                self._note_error("Postgres", error)
            if self._stopping.is_set():
                return None
            await back_off.wait()

    def _note_error(self, store: str, error: BaseException) -> None:
        reason = f"{store}: {type(error).__name__}: {error}"
        self.progress.errors += 1
        if reason != self.progress.error:
            log.warning("cannot record redemptions now; retrying", reason=reason)
        self.progress.error = reason


def _parts(batch: EntryBatch) -> list[EntryBatch]:
    """Split a batch into parts of at most about 2 × BATCH_SIZE redemptions; vanished entries are in the first."""
    if not (batch.entries or batch.vanished):
        return []
    parts = [EntryBatch(vanished=batch.vanished)]
    redemptions = 0
    for entry in batch.entries:
        if redemptions >= BATCH_SIZE * 2:
            parts.append(EntryBatch())
            redemptions = 0
        parts[-1].entries.append(entry)
        redemptions += max(1, entry.announced)
    return parts
