"""What Postgres contains at the end of a scenario: ledger, quarantine, dead letters, void seqs and pools."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.coupons.uses import consumption_id
from tests.faults.world import FaultWorld


@dataclass(frozen=True, slots=True)
class LedgerRow:
    pool_id: int
    seq: int
    code: str
    customer_id: UUID
    at_ms: int
    reversed: bool = False


_USES: Final = """
SELECT c.pool_id, c.seq, p.batch_id, c.customer_id, c.call_id, v.seq IS NOT NULL AS reversed,
  (extract(epoch FROM c.consumed_at) * 1000)::bigint AS at_ms
FROM consumptions c JOIN pools p ON p.id = c.pool_id LEFT JOIN reversals v ON v.pool_id = c.pool_id AND v.seq = c.seq"""

_POOLS: Final = """
SELECT p.*, c.available + c.reversed + c.released AS uses FROM pools p LEFT JOIN coupons c ON c.pool_id = p.id
ORDER BY p.id"""


@dataclass(slots=True)
class PostgresState:
    """The content of Postgres for all pools; ledger by batch and code (or consumption id)."""

    ledger: dict[tuple[UUID, str], LedgerRow]
    seqs: dict[int, set[int]]
    quarantined: dict[int, set[int]]
    dead: dict[int, set[int]]
    void: dict[int, set[int]]
    pools: list[Any]
    seq_of_code: dict[tuple[UUID, str], tuple[int, int]]


def read_state(world: FaultWorld) -> PostgresState:
    ledger, seqs = {}, defaultdict(set)
    for row in world.sql(
        "SELECT pool_id, seq, batch_id, code, customer_id, (extract(epoch FROM redeemed_at) * 1000)::bigint AS at_ms"
        " FROM redemptions"
    ):
        seqs[row["pool_id"]].add(row["seq"])
        batch_id = UUID(bytes=row["batch_id"].bytes)
        customer_id = UUID(bytes=row["customer_id"].bytes)
        ledger[batch_id, row["code"]] = LedgerRow(row["pool_id"], row["seq"], row["code"], customer_id, row["at_ms"])
    for row in world.sql(_USES):
        seqs[row["pool_id"]].add(row["seq"])
        batch_id, customer_id = UUID(bytes=row["batch_id"].bytes), UUID(bytes=row["customer_id"].bytes)
        name = consumption_id(row["pool_id"], row["seq"], row["call_id"].hex)
        ledger[batch_id, name] = LedgerRow(row["pool_id"], row["seq"], name, customer_id, row["at_ms"], row["reversed"])
    quarantined, dead, void = defaultdict(set), defaultdict(set), defaultdict(set)
    for row in world.sql("SELECT pool_id, seq FROM quarantined WHERE released_at IS NULL"):
        quarantined[row["pool_id"]].add(row["seq"])
    for row in world.sql("SELECT pool_id, seq FROM dead_letters WHERE resolved_at IS NULL AND seq IS NOT NULL"):
        dead[row["pool_id"]].add(row["seq"])
    for row in world.sql("SELECT pool_id, seq FROM void_seqs"):
        void[row["pool_id"]].add(row["seq"])
    codes = {}
    for row in world.sql(
        "SELECT c.pool_id, c.seq, c.batch_id, c.code FROM codes c JOIN quarantined USING (pool_id, seq)"
    ):
        codes[UUID(bytes=row["batch_id"].bytes), row["code"]] = (row["pool_id"], row["seq"])
    return PostgresState(ledger, seqs, quarantined, dead, void, world.sql(_POOLS), codes)
