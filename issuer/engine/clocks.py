"""The clocks of the partitions, as this process needs them to give its calls deadlines in Redis' time."""

from __future__ import annotations

import time
from typing import Final

import structlog

from issuer.storage.server_watch import MAX_APART_MS, ClockReading

log = structlog.get_logger()

MAX_DEADLINE_MS: Final = 4_000
"""How far ahead a deadline is at most. Less than MAX_APART_MS: on a clock that is that far ahead, and so past the
deadline, no call runs. On one that is that far behind none does either: redeem.lua refuses a deadline that is more
than MAX_APART_MS ahead."""


class PartitionClocks:
    """Redis' clock by partition, as an offset to the monotonic clock of this process.

    The script compares a deadline with the clock of its host. Redemptions are stamped with the clock of the partition,
    which never decreases: after a step back of the host's clock it stands still until the host catches up.
    `behind_ms`: how far the host was behind in the last answer.
    """

    def __init__(self) -> None:
        self._offsets_ms: dict[int, float] = {}
        self.behind_ms = 0

    def set_all(self, partitions: int, reading: ClockReading) -> None:
        """Take the clock of a server, which was found right, for all partitions, before their first answers."""
        self._offsets_ms = dict.fromkeys(range(partitions), reading.lowest)

    def correct(self, partition: int, host_ms: int, sent_at_s: float) -> bool:
        """Take the clock that a partition returned just now to a call of `sent_at_s`. False: it has jumped."""
        # As a ClockReading, which would cost ten times as much in every call.
        lowest_ms, highest_ms = host_ms - time.monotonic() * 1000, host_ms - sent_at_s * 1000
        known_ms = self._offsets_ms[partition]
        if known_ms < lowest_ms:
            offset_ms = lowest_ms
        elif known_ms > highest_ms:
            offset_ms = highest_ms
        else:
            return True
        if abs(offset_ms - known_ms) > MAX_APART_MS:
            return False
        self._offsets_ms[partition] = offset_ms
        return True

    def deadline_ms(self, partition: int, left_s: float) -> int:
        """Return the deadline, in Redis' time, of a call whose first request waits for another `left_s`."""
        now_ms = time.monotonic() * 1000 + self._offsets_ms[partition]
        return int(now_ms + min(left_s * 1000, MAX_DEADLINE_MS))

    def note(self, partition: int, now_ms: int, host_ms: int) -> None:
        """Note how far the clock of the host is behind that of the partition, from the answer to a call."""
        behind_ms = now_ms - host_ms
        if behind_ms > MAX_APART_MS and self.behind_ms <= MAX_APART_MS:
            log.error(
                "Redis' clock is behind the clock of a partition; limits continue from the later time. If Redis' clock"
                " is right, run `issuer recover --clock`",
                partition=partition, behind_ms=behind_ms,
            )  # fmt: skip
        self.behind_ms = behind_ms
