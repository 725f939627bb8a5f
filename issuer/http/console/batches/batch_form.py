"""What a form says about a batch: its name, its limit per customer, its times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from issuer.batches.batch import Batch, InvalidBatchError, check_times
from issuer.batches.rules import MAX_DAYS, MAX_REDEMPTIONS, NO_RULES, Rules
from issuer.http.console.layout.rules_in_words import show_window
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.pages.zones import local_input

_DAY_MS: Final = 86_400_000
WINDOWS: Final = (0, 1, 7, 30, 90, 365)
"""Days that a form offers; 0: without a time limit."""


@dataclass(frozen=True, slots=True)
class BatchFields:
    """The values of a batch that a form has."""

    name: str
    rules: Rules
    starts_at: datetime | None
    ends_at: datetime | None


def read_batch(typed: TypedForm, before: Batch | None = None) -> BatchFields:
    """Return the values; `typed.errors` has what is wrong. `before`: the batch, of which the rest stays."""
    rules = read_rules(typed, NO_RULES if before is None else before.rules)
    starts_at = typed.instant_or("starts", None if before is None else before.starts_at)
    ends_at = typed.instant_or("ends", None if before is None else before.ends_at)
    if not typed.errors:
        try:
            check_times(starts_at, ends_at)
        except InvalidBatchError:
            typed.refuse("ends", "the end must be later than the start")
    name = typed.batch_name() if before is None or typed.changed("name") else before.name
    return BatchFields(name, rules, starts_at, ends_at)


def read_rules(typed: TypedForm, before: Rules = NO_RULES) -> Rules:
    """Return the limit per customer; further limits of the rules `before` are kept."""
    if not typed.changed("limit", "window"):
        return before
    limit = typed.number("limit", least=1, most=MAX_REDEMPTIONS)
    days = typed.number("window", least=0, most=MAX_DAYS)
    return Rules(limit, days or None if limit else None, before.limits)


def fields_of(batch: Batch, zone: str) -> dict[str, str]:
    """Return the form of a batch as it is."""
    rules = batch.rules
    return {
        "name": batch.name,
        "limit": str(rules.maxpercustomer or ""),
        "window": str(rules.timelimit_days or 0),
        "starts": local_input(batch.starts_at, zone),
        "ends": local_input(batch.ends_at, zone),
        "zone": zone,
    }


def window_options(chosen: str) -> list[tuple[str, str]]:
    """Return the windows of a choice, and the one of the batch among them."""
    days = {*WINDOWS, *([int(chosen)] if chosen.isdecimal() and int(chosen) <= MAX_DAYS else [])}
    return [(str(one), f"in any {show_window(one * _DAY_MS)}" if one else "in all") for one in sorted(days)]
