"""The loop: read, write to Postgres, only then acknowledge. It knows entries, not what they tell."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Final

import structlog

from issuer.ledger.record import RecordResult
from issuer.storage.redis_link import RedisUnavailableError
from sync_worker.reader import EntryBatch, StreamReader
from sync_worker.writer import TROUBLE, ForeignIncarnationError, LedgerWriter

log = structlog.get_logger()

TARGET: Final = 5_000
"""Redemptions that a transaction should have when there is enough to do."""
SMALL: Final = 500
LINGER_S: Final = 0.03
"""Pause after a small batch: the next one is larger, and a commit costs the same for both."""
LOOK_BACK_S: Final = 1.0
BACK_OFF_S: Final = (0.05, 5.0)
"""First and longest pause after trouble."""


@dataclass(slots=True)
class Progress:
    """What the worker has done and what stops it, for its sign of life."""

    inserted: int = 0
    duplicates: int = 0
    anomalies: int = 0
    dead_letters: int = 0
    transactions: int = 0
    trouble: str = ""
    troubles: int = 0

    def add(self, recorded: RecordResult) -> None:
        self.inserted += recorded.inserted
        self.duplicates += recorded.duplicates
        self.anomalies += recorded.anomalies
        self.dead_letters += recorded.dead_letters
        self.transactions += 1


@dataclass(slots=True)
class BackOff:
    """Pauses that grow, with jitter, and end early when the worker is to stop."""

    stopping: asyncio.Event
    pause_s: float = field(default=BACK_OFF_S[0])

    def reset(self) -> None:
        self.pause_s = BACK_OFF_S[0]

    async def wait(self) -> None:
        await pause(self.stopping, self.pause_s * random.uniform(0.5, 1.0))
        self.pause_s = min(self.pause_s * 2, BACK_OFF_S[1])


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Waits, but not when the worker is to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


class Worker:
    """Brings events into the ledger until it is stopped. Any number of them may share the streams."""

    def __init__(self, reader: StreamReader, writer: LedgerWriter, stopping: asyncio.Event) -> None:
        self._reader = reader
        self._writer = writer
        self._stopping = stopping
        self.progress = Progress()
        self._redis_back_off = BackOff(stopping)
        self._look_back_at = 0.0
        self._per_entry = 1.0
        self._busy_partitions = 1

    async def run(self) -> None:
        """Returns after the batch in hand once `stopping` is set."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._step()
                    self._redis_back_off.reset()
                except RedisUnavailableError as error:
                    await self._reader.close()
                    self._note_trouble("Redis", error)
                    await self._redis_back_off.wait()
        finally:
            await self._reader.close()
            await self._writer.close()

    async def _step(self) -> None:
        if not self._reader.is_open:
            await self._reader.open()
            self._look_back_at = 0.0
            log.info("reading", consumer=self._reader.name, epoch=self._reader.blessed.epoch)
        count = self._count()
        if time.monotonic() >= self._look_back_at:
            await self._look_back(count)
        batch = await self._reader.read_new(count, block=True)
        self._learn(batch)
        redemptions = await self._settle(batch)
        if 0 < redemptions < SMALL:
            await pause(self._stopping, LINGER_S)

    async def _look_back(self, count: int) -> None:
        """Entries that no read of new ones will ever bring: given to a lost connection of ours, or to a dead worker."""
        while batch := await self._reader.read_own(count):
            await self._settle(batch)
            if self._stopping.is_set() or not self._reader.is_open:
                return
        batch = await self._reader.claim(count)
        if batch:
            log.info("took over the entries of a silent worker", entries=len(batch.entries))
            await self._settle(batch)
        if not self._reader.more_to_claim:
            self._look_back_at = time.monotonic() + LOOK_BACK_S

    def _count(self) -> int:
        """Entries to ask each partition for, so that together they come near the target."""
        return max(1, round(TARGET / (self._per_entry * self._busy_partitions)))

    def _learn(self, batch: EntryBatch) -> None:
        if batch.entries:
            self._busy_partitions = len({entry.partition for entry in batch.entries})
            mean = sum(entry.announced for entry in batch.entries) / len(batch.entries)
            self._per_entry = max(1.0, 0.7 * self._per_entry + 0.3 * mean)

    async def _settle(self, batch: EntryBatch) -> int:
        """Writes, then acknowledges, a transaction's worth at a time. Returns the redemptions that were in it."""
        total = 0
        for part in _parts(batch):
            if not await self._write(part):
                break
            removed = await self._reader.ack(part)
            log.debug("settled", entries=len(part.entries), removed=removed)
            total += sum(entry.announced for entry in part.entries)
        return total

    async def _write(self, batch: EntryBatch) -> bool:
        """Returns when the batch is in Postgres, however long that is away; False: it must not be acknowledged."""
        back_off = BackOff(self._stopping)
        while True:
            if not self._reader.is_open:
                return False
            try:
                self.progress.add(await self._writer.write(self._reader.blessed, batch.entries, batch.vanished))
                self.progress.trouble = ""
                return True
            except ForeignIncarnationError as error:
                log.warning("dropping entries of a foreign incarnation", entries=len(batch.entries), reason=str(error))
                await self._reader.close()
                await self._redis_back_off.wait()
                return False
            except TROUBLE as error:
                self._note_trouble("Postgres", error)
            if self._stopping.is_set():
                return False
            await back_off.wait()

    def _note_trouble(self, where: str, error: BaseException) -> None:
        trouble = f"{where}: {type(error).__name__}: {error}"
        self.progress.troubles += 1
        if trouble != self.progress.trouble:
            log.warning("trouble", trouble=trouble)
        self.progress.trouble = trouble


def _parts(batch: EntryBatch) -> list[EntryBatch]:
    """The batch in pieces of at most about two targets, vanished entries with the first."""
    if not batch:
        return []
    parts = [EntryBatch(vanished=batch.vanished)]
    redemptions = 0
    for entry in batch.entries:
        if redemptions >= TARGET * 2:
            parts.append(EntryBatch())
            redemptions = 0
        parts[-1].entries.append(entry)
        redemptions += max(1, entry.announced)
    return parts
