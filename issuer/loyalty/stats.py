"""Figures of a program for its shop: points by day, what is outstanding, debts, and the rewards that are taken most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

import asyncpg

from issuer.instants import show_instant
from issuer.loyalty.account import EntryOp
from issuer.loyalty.amounts import show_points
from issuer.loyalty.bounds import NEVER
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool, unavailable_translated

MAX_PERIOD: Final = timedelta(days=366)
DEFAULT_PERIOD: Final = timedelta(days=30)
TOP_REWARDS: Final = 10

# Which figure of a day the entries of an operation add to.
_FIGURES: Final[Mapping[EntryOp, str]] = {
    EntryOp.EARN: "earned",
    EntryOp.EARN_PENDING: "earned",
    EntryOp.SPEND: "spent",
    EntryOp.CAPTURE: "spent",
    EntryOp.UNDO: "restored",
    EntryOp.EXPIRE: "expired",
    EntryOp.TAKE_BACK: "taken_back",
    EntryOp.TAKE_BACK_PENDING: "taken_back",
    EntryOp.WRITE_OFF: "written_off",
    EntryOp.ADJUST_UP: "added",
    EntryOp.ADJUST_DOWN: "removed",
}
FIGURES: Final = tuple(dict.fromkeys(_FIGURES.values()))

_DAYS: Final = """
SELECT (e.occurred_at AT TIME ZONE $2)::date AS day, e.op, sum(e.points)::bigint AS points
FROM entries e JOIN accounts a ON a.id = e.account_id
WHERE a.program_id = $1 AND e.occurred_at >= $3 AND e.occurred_at < $4 GROUP BY 1, 2 ORDER BY 1"""

_TOTALS: Final = """
SELECT count(member_id) AS members, sum(available)::bigint AS available, sum(held)::bigint AS held,
  sum(pending)::bigint AS pending, sum(debt)::bigint AS debt, count(*) FILTER (WHERE debt > 0) AS debtors
FROM accounts WHERE program_id = $1"""

# An expiry is exclusive: the end of a month is in that month.
_MONTHS: Final = """
SELECT CASE WHEN b.expires_at < $3
    THEN to_char((b.expires_at - interval '1 millisecond') AT TIME ZONE $2, 'YYYY-MM') END AS month,
  sum(b.points)::bigint AS points
FROM accounts a CROSS JOIN LATERAL (
  SELECT to_timestamp((bucket->>0)::float8 / 1000) AS expires_at, (bucket->>1)::bigint AS points
  FROM jsonb_array_elements(a.buckets) AS bucket) b
WHERE a.program_id = $1 GROUP BY 1 ORDER BY 1 NULLS LAST"""

_REWARDS: Final = f"""
SELECT m.reward_id, r.name, count(*) AS purchases, sum(m.points)::bigint AS points
FROM moves m JOIN rewards r ON r.id = m.reward_id
WHERE m.program_id = $1 AND m.kind = 'purchase' AND m.state = 'done' AND m.created_at >= $2 AND m.created_at < $3
GROUP BY m.reward_id, r.name ORDER BY purchases DESC, r.name LIMIT {TOP_REWARDS}"""


class InvalidPeriodError(ValueError):
    """The period ends before it begins, or is too long."""


@dataclass(frozen=True, slots=True)
class Period:
    """From an instant, inclusive, to another one, exclusive."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: datetime | None, end: datetime | None) -> Period:
        """Return the period; by default the 30 days before its end, which is now. Raises InvalidPeriodError."""
        end = end or datetime.now(UTC)
        start = start or end - DEFAULT_PERIOD
        if not start < end <= start + MAX_PERIOD:
            raise InvalidPeriodError(f"to must be after from, by at most {MAX_PERIOD.days} days")
        return cls(start, end)


async def read_stats(postgres: Pool, program: Program, period: Period) -> dict[str, Any]:
    """Return the figures as the API and the command line show them. Raises PostgresUnavailableError.

    What is due since the last operation on an account is not counted yet; the worker does it within a minute.
    """
    zone, unit, start, end = program.timezone, program.unit, period.start, period.end
    async with (
        unavailable_translated(),
        postgres.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        days = await connection.fetch(_DAYS, program.id, zone, start, end)
        totals = await connection.fetchrow(_TOTALS, program.id)
        months = await connection.fetch(_MONTHS, program.id, zone, NEVER)
        rewards = await connection.fetch(_REWARDS, program.id, start, end)
    assert totals is not None
    by_day = _by_day(days)
    sums = {name: sum(day[name] for day in by_day.values()) for name in FIGURES}
    return {
        "from": show_instant(start),
        "to": show_instant(end),
        "days": [{"day": day, **_shown(figures, unit)} for day, figures in by_day.items()],
        "total": _shown(sums, unit),
        "redemption_rate": _rate(sums["spent"] - sums["restored"], sums["earned"] - sums["taken_back"]),
        "members": totals["members"],
        "outstanding": {
            **{name: show_points(totals[name] or 0, unit) for name in ("available", "held", "pending")},
            "by_month": [{"month": row["month"], "points": show_points(row["points"], unit)} for row in months],
        },
        "debts": {"accounts": totals["debtors"], "points": show_points(totals["debt"] or 0, unit)},
        "top_rewards": [
            {
                "reward_id": str(row["reward_id"]),
                "name": row["name"],
                "purchases": row["purchases"],
                "points": show_points(row["points"], unit),
            }
            for row in rewards
        ],
    }


def _by_day(rows: list[asyncpg.Record]) -> dict[str, dict[str, int]]:
    """Return the figures of each day that has entries."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    for row in rows:
        figure = _FIGURES.get(EntryOp(row["op"]))
        if figure is not None:
            found[row["day"].isoformat()][figure] += row["points"]
    return found


def _shown(figures: Mapping[str, int], unit: str) -> dict[str, int | str]:
    return {name: show_points(points, unit) for name, points in figures.items()}


def _rate(spent: int, earned: int) -> str | None:
    """Return how much of what was earned was spent, as a decimal string; None: nothing was earned."""
    if earned <= 0:
        return None
    return str((Decimal(max(0, spent)) / earned).quantize(Decimal("0.0001"), ROUND_HALF_EVEN))
