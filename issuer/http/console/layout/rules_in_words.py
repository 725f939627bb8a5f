"""Rules and states in words, as people say them: "2 per customer in any 30 days"."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from issuer.batches.batch import Batch
from issuer.batches.rules import CustomerLimit, Rules

_UNITS: Final = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second"))


def show_limit(limit: CustomerLimit) -> str:
    """Return one limit in words."""
    return f"{limit.max:,} per customer" + (
        "" if limit.window_ms is None else f" in any {show_window(limit.window_ms)}"
    )


def show_rules(rules: Rules) -> str:
    """Return all rules in words."""
    return ", and at most ".join(map(show_limit, rules.all_limits())) or "no limit"


def show_window(window_ms: int) -> str:
    """Return the length of a window in words, in the largest unit that is exact: 30 days, 24 hours, 90 minutes."""
    if window_ms == 86_400_000:
        return "24 hours"
    size, unit = next(((size, unit) for size, unit in _UNITS if window_ms % size == 0), _UNITS[-1])
    count = window_ms // size
    return unit if count == 1 else f"{count:,} {unit}s"


def batch_state(batch: Batch, *, total: int = 1, issued: int | None = 0) -> tuple[str, str]:
    """Return the state of a batch in a word or two, and the class of its badge. `issued` None: not known now."""
    if batch.expired:
        return "Ended", ""
    if batch.paused:
        return "Paused", "warn"
    if not total:
        return "No codes yet", ""
    if issued is not None and issued >= total:
        return "Sold out", "bad"
    if batch.starts_at is not None and batch.starts_at > datetime.now(UTC):
        return "Scheduled", "warn"
    return "Live", "good"
