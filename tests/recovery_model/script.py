"""The script that issues codes (redeem.lua)."""

from __future__ import annotations

from typing import NamedTuple

from tests.recovery_model.rules import on
from tests.recovery_model.state import BOUND, Data, Fact


class Granted(NamedTuple):
    """`fresh`: this call has granted it; otherwise it was kept for the key."""

    event: Fact
    fresh: bool


def script(data: Data, epoch: int, floor: int, beat: int, key: str) -> tuple[Data, Granted | str]:
    """Return the data set behind the call, and the reply: what is granted, or the word of a refusal."""
    if data.epoch != epoch:
        return data, "STALE_EPOCH"
    if data.serial < floor or (on("beat") and data.beat < beat):
        return data, "BEHIND"
    for event in data.kept:
        if event.key == key:
            return data, Granted(event, False)
    if any(event.key[0] == key[0] for event in data.kept):
        return data, "LIMIT_REACHED"
    if not data.pool:
        return data, "EMPTY"
    if len(data.stream) >= BOUND:
        return data, "BACKLOG_FULL"
    event = Fact(epoch, data.serial + 1, data.issued + 1, data.pool[0], key)
    after = data._replace(
        serial=event.serial,
        issued=event.seq,
        pool=data.pool[1:],
        stream=(*data.stream, event),
        kept=data.kept | {event},
    )
    return after, Granted(event, True)
