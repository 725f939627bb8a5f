"""Indexes that a revision adds to tables of the ledger: they are built before it, while redemptions are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class LargeIndex(NamedTuple):
    """An index that comes with a revision. `definition`: what follows CREATE INDEX [CONCURRENTLY]."""

    revision: str
    definition: str


LARGE_INDEXES: Final[Mapping[str, LargeIndex]] = {
    "consumptions_by_order": LargeIndex(
        "0005", "consumptions_by_order ON consumptions USING hash (order_id) WHERE order_id IS NOT NULL"
    )
}
