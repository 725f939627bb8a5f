"""The clocks of the partitions, as this process needs them to give its calls deadlines in Redis' time."""

from __future__ import annotations

import time
from typing import Final

import structlog

log = structlog.get_logger()

MAX_DEADLINE_MS: Final = 10_000
"""How far ahead a deadline is at most: a call must not be granted after its answer is no longer kept."""
CLOCK_ALARM_MS: Final = 5_000


class PartitionClocks:
    """Redis' clock by partition, as an offset to the monotonic clock of this process.

    The script compares a deadline with the clock of its host. Redemptions are stamped with the clock of the partition,
    which never decreases: after a step back of the host's clock it stands still until the host catches up.
    `behind_ms`: how far the host was behind in the last answer.
    """

    def __init__(self) -> None:
        self._offsets_ms: dict[int, float] = {}
        self.behind_ms = 0

    def set_all(self, partitions: int, host_ms: int) -> None:
        """Take the clock of a server for all partitions, before their first answers."""
        self._offsets_ms = dict.fromkeys(range(partitions), host_ms - time.monotonic() * 1000)

    def correct(self, partition: int, host_ms: int) -> None:
        """Take the clock that a partition returned just now."""
        self._offsets_ms[partition] = host_ms - time.monotonic() * 1000

    def deadline_ms(self, partition: int, left_s: float) -> int:
        """Return the deadline, in Redis' time, of a call whose first request waits for another `left_s`."""
        now_ms = time.monotonic() * 1000 + self._offsets_ms[partition]
        return int(now_ms + min(left_s * 1000, MAX_DEADLINE_MS))

    def note(self, partition: int, now_ms: int, host_ms: int) -> None:
        """Note the clocks of partition and host from the answer to a call."""
        self.correct(partition, host_ms)
        behind_ms = now_ms - host_ms
        if behind_ms > CLOCK_ALARM_MS and self.behind_ms <= CLOCK_ALARM_MS:
            log.error(
                "Redis' clock has stepped back; limits continue from the later time", partition=partition,
                behind_ms=behind_ms,
            )  # fmt: skip
        self.behind_ms = behind_ms
