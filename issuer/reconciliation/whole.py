"""Reconcile everything that an installation has: the ledger, the accounts of points, the points moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from issuer.ledger.reconcile import Reconciliation, reconcile
from issuer.loyalty.move_audit import MoveProblem, find_wrong_moves
from issuer.loyalty.reconcile import PointsReconciliation, reconcile_points
from issuer.storage.stores import Stores

MAX_SHOWN: Final = 100
"""Pools that do not balance and are kept with a run."""
_COUNTS: Final = ("issued", "ledger", "backlog", "quarantined", "dead_letters", "void")


@dataclass(frozen=True, slots=True)
class WholeReconciliation:
    """The result for everything, or for the pools of one batch."""

    ledger: Reconciliation
    points: PointsReconciliation
    moves: Sequence[MoveProblem]

    @property
    def holds(self) -> bool:
        return self.ledger.holds and self.points.holds and not self.moves

    def to_json(self) -> dict[str, Any]:
        """Return all of it."""
        moves = [move.to_json() for move in self.moves]
        return self.ledger.to_json() | {"holds": self.holds, "points": self.points.to_json(), "moves": moves}

    def summary(self) -> dict[str, Any]:
        """Return what is kept of a run: the sums over all pools, and what does not hold."""
        pools = self.ledger.pools
        wrong = [pool for pool in pools if not pool.holds]
        shown = {**self.to_json(), "pools": len(pools), "wrong_pools": len(wrong)}
        shown["sums"] = {name: sum(getattr(pool, name) for pool in pools) for name in _COUNTS}
        kept = {pool.pool_id for pool in wrong[:MAX_SHOWN]}
        shown["wrong"] = [pool for pool in self.ledger.to_json()["pools"] if pool["pool_id"] in kept]
        return shown


async def reconcile_whole(stores: Stores, batch_id: UUID | None = None) -> WholeReconciliation:
    """Reconcile everything, or the pools of one batch. Change nothing.

    Raises RedisUnavailableError and PostgresUnavailableError.
    """
    if batch_id is not None:
        return WholeReconciliation(await reconcile(stores, batch_id=batch_id), PointsReconciliation(), [])
    return WholeReconciliation(
        await reconcile(stores), await reconcile_points(stores.postgres), await find_wrong_moves(stores)
    )
