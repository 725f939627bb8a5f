"""How far the data of Redis must be at least: the serials and beats that are known of each partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from issuer.recovery.inspection import PartitionState
from issuer.storage.floors import Floors
from issuer.storage.postgres import Connection

# In a pool a higher seq has a higher serial. What was imported has none.
_RECORDED: Final = """
SELECT b.partition, max(r.serial) AS serial FROM batches b JOIN pools p ON p.batch_id = b.id
CROSS JOIN LATERAL (
  SELECT serial FROM ledger WHERE pool_id = p.id AND serial IS NOT NULL ORDER BY seq DESC LIMIT 1
) r GROUP BY b.partition
UNION ALL
SELECT partition, max(serial + facts - 1) FROM dead_letters WHERE serial IS NOT NULL GROUP BY partition
UNION ALL
SELECT partition, max(serial) FROM epoch_bases GROUP BY partition"""

_STORE_BASES: Final = """
INSERT INTO epoch_bases (epoch, partition, serial, after_loss) SELECT $1, n - 1, serial, $3
FROM unnest($2::bigint[]) WITH ORDINALITY AS b(serial, n)"""


async def see_recorded(postgres: Connection, floors: Floors) -> None:
    """Raise floors to the highest serials in the ledger, of dead letters, and with which an epoch began."""
    for row in await postgres.fetch(_RECORDED):
        floors.see(row["partition"], row["serial"])


def see_states(floors: Floors, states: Sequence[PartitionState]) -> None:
    """Raise floors to what the data of Redis have themselves."""
    for partition, state in enumerate(states):
        floors.see(partition, int(state.get("serial", 0)), int(state.get("beat", 0)))


def behind(states: Sequence[PartitionState], floors: Floors) -> list[str]:
    """Return why these data are not all that there was, in words for an operator; an empty list if they may be."""
    reasons = []
    for name, known in (("serial", floors.serials), ("beat", floors.beats)):
        lower = [p for p, state in enumerate(states) if int(state.get(name, 0)) < known[p]]
        if lower:
            first = lower[0]
            reasons.append(
                f"{len(lower)} of {len(states)} partitions have gone back in time: partition {first} has {name}"
                f" {states[first].get(name, 0)}, but {known[first]} was seen"
            )
    return reasons


async def store_bases(postgres: Connection, floors: Floors, *, after_loss: bool) -> None:
    """Store the serials with which an epoch begins, in the caller's transaction."""
    await postgres.execute(_STORE_BASES, floors.epoch, floors.serials, after_loss)
