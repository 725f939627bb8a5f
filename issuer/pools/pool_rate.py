"""How fast a pool empties, as the worker has computed it a moment ago."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from issuer.instants import show_instant

RATE_COLUMNS: Final = "r.per_s_1m, r.per_s_15m, r.empty_at"
RATE_JOIN: Final = "LEFT JOIN pool_rates r ON r.pool_id = p.id AND r.at > now() - interval '2 minutes'"
"""What a query needs whose rows `PoolRate.of` takes; pools are `p`. Older rates are none: no worker runs."""


@dataclass(frozen=True, slots=True)
class PoolRate:
    """Codes or uses issued a second, over one minute and over 15, and when none will be left.

    None: nothing was issued for a day, or no worker runs; of `empty_at` also: not within a year, as far as known.
    """

    per_s_1m: float | None = None
    per_s_15m: float | None = None
    empty_at: datetime | None = None

    @classmethod
    def of(cls, row: asyncpg.Record) -> PoolRate:
        return cls(row["per_s_1m"], row["per_s_15m"], row["empty_at"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields that every stock has."""
        return {
            "rate_per_s_1m": self.per_s_1m and round(self.per_s_1m, 3),
            "rate_per_s_15m": self.per_s_15m and round(self.per_s_15m, 3),
            "empty_at": None if self.empty_at is None else show_instant(self.empty_at),
        }


UNKNOWN_RATE: Final = PoolRate()
