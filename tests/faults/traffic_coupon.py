"""The coupon of a world: created in Postgres, loaded into Redis by the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from issuer.contract.keys import partition_of
from issuer.coupons.folding import coupon_id, fold, fold_fully
from tests.faults.traffic import PARTITIONS, TrafficBatch

if TYPE_CHECKING:
    from tests.faults.world import FaultWorld

CODE: Final = "SAVE-20"
LIMITS: Final = ((2, 1_000),)
RULES: Final = '{"limits": [{"max": 2, "seconds": 1}]}'
NO_LIMITS: Final = "{}"


def make_traffic_coupon(world: FaultWorld, number: int, uses: int, *, limited: bool = True) -> TrafficBatch:
    """Create the coupon. `number` distinguishes the worlds that share a Postgres server."""
    client_id = UUID(int=(number << 64) + 77)
    folded = fold(CODE)
    fully_folded = fold_fully(folded)
    batch_id = coupon_id(client_id, fully_folded)
    rules, partition = RULES if limited else NO_LIMITS, partition_of(batch_id, PARTITIONS)
    world.sql(_BATCH, batch_id, CODE, rules, partition)
    world.sql(_POOL, batch_id, client_id, uses)
    world.sql(_COUPON, batch_id, CODE, folded, fully_folded, uses)
    world.sql(_TERMS, batch_id)
    return TrafficBatch("coupon", batch_id, (client_id,), LIMITS if limited else (), 500 if limited else 3_000, 2, CODE)


_BATCH: Final = "INSERT INTO batches (id, kind, name, rules, partition) VALUES ($1, 'coupon', $2, $3, $4)"
_POOL: Final = "INSERT INTO pools (batch_id, client_id, total) VALUES ($1, $2, $3)"
_COUPON: Final = """
INSERT INTO coupons (batch_id, pool_id, client_id, code, folded, fully_folded, unambiguous, available)
SELECT $1, id, client_id, $2, $3, $4, false, $5 FROM pools WHERE batch_id = $1"""
_TERMS: Final = """
INSERT INTO coupon_terms (pool_id, number, terms)
SELECT id, 1, '{"code":"SAVE-20","discount_fixed":"5.00","currency":"EUR"}' FROM pools WHERE batch_id = $1"""
