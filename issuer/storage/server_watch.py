"""Whether the Redis server may decide at present: its clock, compared with two others, and its eviction policy.

A script decides by the clock of Redis' host. Each process compares that clock with its own monotonic one, from one
reading to the next, and with Postgres' clock, which it reads once a second. Postgres' clock prevails while it is known:
it alone can confirm that a clock was set right. Redis' eviction policy is read once a second.

While a stop lasts, this process grants nothing. What was granted is recorded, and what operators change is pushed.

Keys may have expired early on a clock that was ahead, and evicted keys are gone: windows and kept answers. They are
rebuilt (the guardian does that) before this process issues again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog

log = structlog.get_logger()

MAX_APART_MS: Final = 5_000
"""How far two clocks may be apart."""
FRESH_S: Final = 5.0
"""For how long a reading of Postgres' clock counts."""


class Stop(StrEnum):
    """Why a process issues nothing although the blessed Redis answers. Contract of /readyz and of the metrics."""

    CLOCK = "clock"
    EVICTION_POLICY = "eviction_policy"
    LOST_KEYS = "lost_keys"


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What a clock showed in an exchange, as bounds of its offset to the monotonic clock of this process (ms).

    It was read at some moment between the beginning and the end of the exchange.
    """

    lowest: float
    highest: float

    @classmethod
    def of(cls, clock_ms: float, began_s: float, ended_s: float) -> ClockReading:
        """Return the reading of an exchange that began and ended then, by `time.monotonic()`."""
        return cls(clock_ms - ended_s * 1000, clock_ms - began_s * 1000)

    def ahead_ms(self, other: ClockReading) -> float:
        """Return how far this clock is ahead of another one at least; negative: behind; 0: they may agree."""
        if self.lowest > other.highest:
            return self.lowest - other.highest
        return min(0.0, self.highest - other.lowest)


class ServerWatch:
    """What this process holds against the Redis server.

    `stops`: each reason, in words for an operator. `epoch`: that of the data; `lost_keys_in`: that of the data which
    LOST_KEYS is about.
    """

    def __init__(self) -> None:
        self.stops: dict[Stop, str] = {}
        self.epoch = 0
        self.lost_keys_in = 0
        self._listeners: list[Callable[[], None]] = []
        self._postgres: ClockReading | None = None
        self._postgres_read_at = 0.0
        self._redis: ClockReading | None = None

    def on_stop(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a new stop begins."""
        self._listeners.append(listener)

    @property
    def stopped(self) -> str:
        """Why nothing is issued; empty without a stop."""
        return "; ".join(self.stops.values())

    def note_postgres(self, reading: ClockReading) -> None:
        """Note a reading of Postgres' clock."""
        self._postgres, self._postgres_read_at = reading, time.monotonic()

    def judge_clock(self, reading: ClockReading) -> bool:
        """Return whether Redis' clock can be right. The stop CLOCK begins or ends with that."""
        if self._postgres is not None and time.monotonic() - self._postgres_read_at < FRESH_S:
            other, name = self._postgres, "Postgres'"
        else:
            other, name = self._redis or reading, "what it was"
        ahead_ms = reading.ahead_ms(other)
        if abs(ahead_ms) > MAX_APART_MS:
            if (reading.ahead_ms(self._redis) if self._redis is not None else ahead_ms) > MAX_APART_MS:
                self._note_lost_keys("keys may have expired early, since Redis' clock was ahead")
            where = "ahead of" if ahead_ms > 0 else "behind"
            self._set(Stop.CLOCK, f"Redis' clock is {abs(ahead_ms) / 1000:.1f} s {where} {name}")
            return False
        self._redis = reading
        self._set(Stop.CLOCK, "")
        return True

    def judge_policy(self, policy: str, *, evicted: int) -> bool:
        """Return whether Redis keeps all data whatever happens. The stop EVICTION_POLICY begins or ends with that.

        `evicted`: keys that Redis deleted since it was blessed.
        """
        if evicted > 0:
            self._note_lost_keys(f"Redis has evicted {evicted} keys")
        safe = policy == "noeviction"
        found = f"maxmemory-policy must be noeviction, not {policy}: any other policy deletes codes and limits"
        self._set(Stop.EVICTION_POLICY, "" if safe else found)
        return safe

    def _note_lost_keys(self, found: str) -> None:
        if Stop.LOST_KEYS not in self.stops:
            self.lost_keys_in = self.epoch
        self._set(Stop.LOST_KEYS, f"{found}: windows and kept answers must be rebuilt")

    def note_rebuilt(self) -> None:
        """Note that windows and kept answers were rebuilt from the ledger."""
        self._set(Stop.LOST_KEYS, "")

    def _set(self, stop: Stop, found: str) -> None:
        before = self.stops.pop(stop, "")
        if found:
            self.stops[stop] = found
        if bool(found) == bool(before):
            return
        if not found:
            log.info("issuing may continue", stop=stop)
            return
        log.error("issuing is stopped", stop=stop, found=found)
        for listener in self._listeners:
            listener()
