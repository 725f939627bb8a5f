"""Counters of an API process, shared with its sibling processes through files so that /metrics shows their sum.

The hot path increments plain integers. Once a second and at every scrape a process writes its counters to its own file
in `ISSUER_METRICS_DIR`; the process that is scraped sums all files there. It reads its own counters from its file too,
so the sum never decreases, whichever process answers. Files of processes that exited stay, because counters must not
decrease.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson
import structlog

log = structlog.get_logger()

BOUNDS_S: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the latency histogram, in seconds."""
WRITE_EVERY_S: Final = 1.0
OF_COUPON: Final = "COUPON_"
"""Prefix of the outcomes of consumptions."""


@dataclass(slots=True)
class OutcomeCounts:
    """Requests by outcome and a histogram of their durations in seconds, with one bucket more than BOUNDS_S.

    `limited`: requests refused by a rate limit, by kind of limit. `slots`: those refused because there was no slot, by
    kind of slot and reason. `deliveries`: those of shops, by outcome.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    limited: dict[str, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    deliveries: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    seconds: float = 0.0

    def add(self, other: Mapping[str, object]) -> None:
        """Add the content of a file. Raises KeyError, TypeError or ValueError if it is not a tally."""
        buckets, seconds = other["buckets"], other["seconds"]
        counted = [(getattr(self, name), other[name]) for name in ("outcomes", "limited", "slots", "deliveries")]
        if not isinstance(buckets, list) or not isinstance(seconds, float | int):
            raise TypeError("not a tally")
        sums = [own + added for own, added in zip(self.buckets, buckets, strict=True)]
        for totals, additions in counted:
            if not isinstance(additions, dict):
                raise TypeError("not a tally")
            for name, count in additions.items():
                totals[name] = totals.get(name, 0) + count
        self.buckets = sums
        self.seconds += seconds

    def outcomes_since(self, before: OutcomeCounts) -> dict[str, int]:
        """Return what was counted since `before` was copied: names as the metrics have them, uses of coupons among all.

        Outcomes of which there are none are left out.
        """
        found: dict[str, int] = {}
        for outcome, count in self.outcomes.items():
            if new := count - before.outcomes.get(outcome, 0):
                name = outcome.removeprefix(OF_COUPON).lower()
                found[name] = found.get(name, 0) + new
        return found


def read_tallies(directory: Path) -> OutcomeCounts:
    """Return the counts of all processes that write to the directory, as of their last second."""
    total = OutcomeCounts()
    for file in directory.glob("api-*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            total.add(orjson.loads(file.read_bytes()))
    return total


class Tally:
    """The counters of this process. `count` is called on the hot path and takes well under a microsecond."""

    def __init__(self, directory: Path | None) -> None:
        self._own = OutcomeCounts()
        self._file: Path | None = None
        self._written = b""
        self._task: asyncio.Task[None] | None = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"api-{os.getpid()}-", suffix=".json", dir=directory)
            os.close(handle)
            self._file = Path(name)
            self.write()

    def count(self, outcome: str, seconds: float) -> None:
        own = self._own
        outcomes = own.outcomes
        try:
            outcomes[outcome] += 1
        except KeyError:
            outcomes[outcome] = 1
        own.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        own.seconds += seconds

    def refuse(self, kind: str) -> None:
        """Count a request refused by a rate limit of this kind."""
        self._own.limited[kind] = self._own.limited.get(kind, 0) + 1

    def refuse_slot(self, kind: str, reason: str) -> None:
        """Count a request for which there was no slot of this kind."""
        name = f"{kind} {reason}"
        self._own.slots[name] = self._own.slots.get(name, 0) + 1

    def count_delivery(self, outcome: str) -> None:
        """Count a delivery of a shop."""
        self._own.deliveries[outcome] = self._own.deliveries.get(outcome, 0) + 1

    def own(self) -> OutcomeCounts:
        """Return a copy of the counts of this process."""
        copy = OutcomeCounts()
        copy.add(asdict(self._own))
        return copy

    def write(self) -> None:
        """Replace the file atomically, if it has other counters: a reader sees either the old ones or the new ones."""
        packed = orjson.dumps(self._own, option=orjson.OPT_NON_STR_KEYS)
        if self._file is None or packed == self._written:
            return
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(packed)
        fresh.replace(self._file)
        self._written = packed

    def total(self) -> OutcomeCounts:
        """Return the counts of all processes that share the directory; of this one alone if there is none."""
        if self._file is None:
            return self.own()
        self.write()
        return read_tallies(self._file.parent)

    def start(self) -> None:
        if self._file is not None:
            self._task = asyncio.create_task(self._write_often(), name="metrics-files")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(OSError):
            self.write()

    async def _write_often(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                self.write()
                failing = False
            except OSError as error:
                if not failing:
                    log.warning(
                        "cannot write the metrics file; /metrics is out of date until it can be written",
                        file=str(self._file),
                        error=str(error),
                    )
                failing = True
