"""All operations of loyalty. Where paths overlap, the first one counts."""

from __future__ import annotations

from typing import Final

from issuer.http.loyalty import (
    card_files,
    cards,
    deliveries,
    entries,
    holds,
    hooks,
    members,
    merges,
    points,
    programs,
    purchases,
    reversals,
    rewards,
    stats,
    stored_value,
    transfers,
)
from issuer.http.operations import Operation

LOYALTY: Final[tuple[Operation, ...]] = (
    *programs.OPERATIONS,
    *stats.OPERATIONS,
    *members.OPERATIONS,
    *points.OPERATIONS,
    *holds.OPERATIONS,
    *reversals.OPERATIONS,
    *entries.OPERATIONS,
    *hooks.OPERATIONS,
    *deliveries.OPERATIONS,
    *rewards.OPERATIONS,
    *purchases.OPERATIONS,
    *transfers.OPERATIONS,
    *merges.OPERATIONS,
    *cards.OPERATIONS,
    *stored_value.OPERATIONS,
    *card_files.OPERATIONS,
)
