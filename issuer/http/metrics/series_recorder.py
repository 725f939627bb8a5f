"""Records what this process has answered in the series, every few seconds, and its pulse.

The hot path counts in memory (`CallSender.answered`, `Tally.count`). What cannot be written, because Postgres is
unavailable, stays in memory and is written later, under the minutes in which it was counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import islice
from typing import Final
from uuid import uuid4

import structlog

from issuer.contract.keys import pool_of_key
from issuer.contract.outcomes import Outcome
from issuer.engine.engine import Engine
from issuer.http.metrics.tally import Tally
from issuer.journal.journal import host_name
from issuer.series.recording import BATCH_SIZE, MINUTE_S, Pulse, SeriesLine, add_counts, end_pulse, write_pulse
from issuer.storage.ending import end_tasks
from issuer.storage.postgres import Pool, PostgresUnavailableError

log = structlog.get_logger()

PERIOD_S: Final = 5.0
MAX_SHARE: Final = 0.05
"""Most of the time that is spent on writing: with very many pools the periods are longer."""
MAX_LINES: Final = 100_000
"""Most lines that wait for Postgres. Beyond that the oldest are forgotten."""
LAST_WRITE_S: Final = 2.0


class SeriesRecorder:
    """The recorder of one API process."""

    def __init__(self, postgres: Pool, engine: Engine, tally: Tally, *, host: str | None = None) -> None:
        self._postgres = postgres
        self._engine = engine
        self._tally = tally
        self._process, self._host = uuid4(), host or host_name()
        self._waiting: Counter[SeriesLine] = Counter()
        self._seen = tally.own()
        self._gathered_at = time.time()
        self._recording = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._record_often(), name="series")

    async def aclose(self) -> None:
        """Write what is counted, if Postgres takes it within LAST_WRITE_S."""
        if self._task is not None:
            await end_tasks(self._task)
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                await self.record()
                await end_pulse(self._postgres, self._process)
        except (PostgresUnavailableError, TimeoutError) as error:
            log.warning("the series lack the last seconds of this process", reason=str(error))

    async def record(self) -> None:
        """Write what was counted since the last time, and the pulse. Raises PostgresUnavailableError."""
        async with self._recording:
            pulse = self._gather()
            while self._waiting:
                some = dict(islice(self._waiting.items(), BATCH_SIZE))
                await add_counts(self._postgres, some)
                # Only now: what was not written waits for the next time.
                for line in some:
                    del self._waiting[line]
            await write_pulse(self._postgres, pulse)

    def _gather(self) -> Pulse:
        """Add what was counted since the last time to what waits, and return the pulse."""
        now, before = time.time(), self._gathered_at
        self._gathered_at = now
        # Periods end with minutes, so what one has counted belongs to the minute of its middle.
        minute_s = int((now + before) / 2) // MINUTE_S * MINUTE_S
        for (key, outcome), count in self._engine.take_answered().items():
            # It is of no pool, so it has no line: a caller that tries many ids displaces no other.
            if outcome is not Outcome.UNKNOWN_BATCH:
                self._waiting[SeriesLine(minute_s, pool_of_key(key), outcome.lower())] += count
        own, seen = self._tally.own(), self._seen
        self._seen = own
        outcomes = own.outcomes_since(seen)
        for name, count in outcomes.items():
            self._waiting[SeriesLine(minute_s, None, name)] += count
        durations = [new - old for new, old in zip(own.buckets, seen.buckets, strict=True)]
        for line in list(islice(self._waiting, max(0, len(self._waiting) - MAX_LINES))):
            del self._waiting[line]
        return Pulse(self._process, self._host, max(now - before, 0.001), outcomes, durations)

    async def _record_often(self) -> None:
        failing = False
        spent_s = 0.0
        while True:
            pause_s = max(PERIOD_S, spent_s / MAX_SHARE)
            await asyncio.sleep(pause_s - time.time() % PERIOD_S)
            began_s = time.monotonic()
            try:
                await self.record()
                failing = False
            except PostgresUnavailableError as error:
                if not failing:
                    log.warning("the series are behind until Postgres is available", reason=str(error))
                failing = True
            except Exception:
                log.exception("the series could not be written; trying again")
            spent_s = time.monotonic() - began_s
