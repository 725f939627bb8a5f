"""The equation of a partition: recorded + backlog + dead letters + quarantined + void = serial.

It knows nothing of pools: each fact that a partition ever granted has a serial, and each serial is in one place. What
an epoch began with after a loss (`epoch_bases`) was counted on from a bound, so the serials up to it that nothing
accounts for are those of facts that may have been lost: they are quarantined as long as a seq of the partition is, and
void once it is known that no caller received them. Beyond it none may be missing. Their sum is compared, too: it shows
a serial that is there twice in the place of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from issuer.contract.events import RedemptionColumns
from issuer.ledger.balance_sql import TIMEOUT_S
from issuer.ledger.entries import StreamEntry
from issuer.storage.postgres import PoolConnection

# LATERAL: the ranges of the partition's pools in the indexes, not the whole ledger once for each partition.
_RECORDED: Final = """
SELECT count(*) AS all, count(*) FILTER (WHERE r.serial <= $3) AS below,
  coalesce(sum(r.serial) FILTER (WHERE r.serial > $3), 0) AS sum
FROM batches b JOIN pools p ON p.batch_id = b.id
CROSS JOIN LATERAL (SELECT serial FROM ledger WHERE pool_id = p.id AND serial <= $2) r
WHERE b.partition = $1"""

_DEAD: Final = """
SELECT coalesce(sum(facts), 0)::bigint AS all, coalesce(sum(facts) FILTER (WHERE serial <= $3), 0)::bigint AS below,
  coalesce(sum(facts * serial + facts * (facts - 1) / 2) FILTER (WHERE serial > $3), 0) AS sum
FROM (
  SELECT DISTINCT ON (serial) serial, facts FROM dead_letters
  WHERE partition = $1 AND resolved_at IS NULL AND serial <= $2 ORDER BY serial) d"""

# An event that is recorded or a dead letter already only waits for its acknowledgement.
_BACKLOG: Final = """
SELECT coalesce(sum(e.facts), 0)::bigint AS all,
  coalesce(sum(e.facts * e.serial + e.facts * (e.facts - 1) / 2) FILTER (WHERE e.serial > $6), 0) AS sum
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS e(pool_id, seq, serial, facts)
WHERE NOT EXISTS (SELECT FROM ledger r WHERE r.pool_id = e.pool_id AND r.seq = e.seq AND r.serial = e.serial)
  AND NOT EXISTS (
    SELECT FROM dead_letters d WHERE d.partition = $1 AND d.serial = e.serial AND d.resolved_at IS NULL)"""

_BASE: Final = "SELECT coalesce(max(serial), 0) FROM epoch_bases WHERE partition = $1 AND after_loss"
_HOLDS_QUARANTINE: Final = """
SELECT EXISTS (
  SELECT FROM quarantined q JOIN pools p ON p.id = q.pool_id JOIN batches b ON b.id = p.batch_id
  WHERE b.partition = $1 AND q.released_at IS NULL)"""


@dataclass(slots=True)
class PartitionBalance:
    """The equation of one partition. `serial`: of the last fact that it granted."""

    partition: int
    serial: int
    recorded: int = 0
    backlog: int = 0
    dead_letters: int = 0
    quarantined: int = 0
    void: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def accounted(self) -> int:
        return self.recorded + self.backlog + self.dead_letters + self.quarantined + self.void

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


async def balance_partition(
    connection: PoolConnection,
    partition: int,
    serial: int,
    stream: RedemptionColumns,
    unreadable: Sequence[StreamEntry],
) -> PartitionBalance:
    """Balance a partition whose stream was read together with its `serial`, and before the transaction began."""
    balance = PartitionBalance(partition, serial)
    base = await connection.fetchval(_BASE, partition)
    recorded: Any = await connection.fetchrow(_RECORDED, partition, serial, base, timeout=TIMEOUT_S)
    dead: Any = await connection.fetchrow(_DEAD, partition, serial, base)
    # A serial that is in the stream twice counts once, so that it shows as a missing one.
    once = {number: place for place, number in enumerate(stream.serials)}
    places = list(once.values())
    whole = [entry for entry in unreadable if entry.serial]
    backlog: Any = await connection.fetchrow(
        _BACKLOG, partition, [stream.pool_ids[p] for p in places] + [0] * len(whole),
        [stream.seqs[p] for p in places] + [0] * len(whole), list(once) + [entry.serial for entry in whole],
        [1] * len(places) + [entry.announced for entry in whole], base, timeout=TIMEOUT_S,
    )  # fmt: skip
    balance.recorded, balance.dead_letters, balance.backlog = recorded["all"], dead["all"], backlog["all"]
    unaccounted = max(0, base - recorded["below"] - dead["below"])
    if await connection.fetchval(_HOLDS_QUARANTINE, partition):
        balance.quarantined = unaccounted
    else:
        balance.void = unaccounted
    if balance.accounted != serial:
        balance.problems.append(show_difference(serial - balance.accounted, "serial"))
    elif recorded["sum"] + dead["sum"] + backlog["sum"] != (serial * (serial + 1) - base * (base + 1)) // 2:
        balance.problems.append("some serials are accounted for twice, and as many are missing")
    return balance


def show_difference(missing: int, noun: str) -> str:
    """Return what is wrong with an equation: how many are missing or, if negative, accounted for twice."""
    count = f"1 {noun} is" if abs(missing) == 1 else f"{abs(missing)} {noun}s are"
    return f"{count} missing" if missing > 0 else f"{count} accounted for twice"
