"""The rules of the design. Each can be taken away, to see which trace breaks a promise without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

RULES: Final[Mapping[str, str]] = {
    "close": "a process gives its word on an epoch only after it closed its link and dropped what it has not answered",
    "replay": "an answer from a kept key or call is appended to the journal as a grant is, before it is sent",
    "disk": "a registration names its journal (random id in the file); only the holder of that very file settles it",
    "lock": "a dead process' registration is settled by another only when the journal's lock is free",
    "boot": "a journal that was being written when its host lost power is replayed, but is not complete",
    "append": "a receipt that cannot be appended is not answered (503)",
    "regtx": "registering and checking that the pair is still blessed are one transaction",
    "void": "re-issued seqs, and serials of an epoch above the base of the next one, are void: never recorded later",
    "carry": "registrations not settled at a restart count in the next recovery: all epochs since the last loss do",
    "promoted": "a promoted replica is a restart only when every registration is settled; otherwise a loss",
    "beat": "a counter of heartbeats in the data set, reported to Postgres and sent as a second floor",
    "lineage": "who commits keeps a token, in Redis too; a Postgres that does not know it went back",
    "hearall": "a recovery decides, and a process starts, only after each living process was heard of",
    "keep": "rows recorded after the decision are listed in Postgres until Redis has their windows and answers",
    "all": "quarantine of an epoch is released only when all its registrations are settled",
    "behind": "a data set that is behind a floor is recovered although its run_id and epoch are the blessed ones",
}

ALL_FAULTS: Final = frozenset({"redis", "api", "host", "pg", "kill"})


@dataclass(slots=True)
class Bounds:
    """What is explored: the kinds of faults, how many of them, and which rules are taken away.

    `at_rest`: the faults have stopped, and every process does what is to be done.
    """

    menu: frozenset[str] = ALL_FAULTS
    faults: int = 2
    without: set[str] = field(default_factory=set)

    def on(self, rule: str) -> bool:
        return rule not in self.without


BOUNDS: Final = Bounds()
"""One exploration a process, so the bounds are global: every step asks for them."""

AT_REST: Final = 99
"""The count of faults in a state in which they have stopped."""


def on(rule: str) -> bool:
    """Whether the rule is part of the design that is explored."""
    return BOUNDS.on(rule)
