"""Points, amounts and days as pages show them: in the language of the visitor and the time zone of the program."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from babel.dates import format_date, format_datetime
from babel.numbers import format_currency, format_decimal

from issuer.loyalty.account import PointsEntry
from issuer.loyalty.bounds import NEVER
from issuer.loyalty.effects import EFFECTS
from issuer.loyalty.program import Program
from issuer.loyalty.terms import POINTS
from issuer.money import from_minor


@dataclass(frozen=True, slots=True)
class Figures:
    """How one page shows figures of a program."""

    program: Program
    language: str

    @property
    def counts_points(self) -> bool:
        return self.program.unit == POINTS

    def points(self, figure: int) -> str:
        """Return a figure of the ledger: points without a unit, money with its currency."""
        if self.counts_points:
            return format_decimal(figure, locale=self.language)
        return format_currency(from_minor(figure, self.program.unit), self.program.unit, locale=self.language)

    def change(self, entry: PointsEntry) -> str:
        """Return by how much an entry changed what the member has; empty: it did not."""
        effect = EFFECTS[entry.op]
        change = (effect.balance or effect.pending) * entry.points
        return "" if change == 0 else ("+" if change > 0 else "−") + self.points(abs(change))

    def last_day(self, expires_at: datetime) -> str | None:
        """Return the last day on which points can be used; None: they do not expire."""
        if expires_at >= NEVER:
            return None
        return self._day((expires_at - timedelta(milliseconds=1)).astimezone(self.program.zone).date())

    def day(self, instant: datetime) -> str:
        return self._day(instant.astimezone(self.program.zone).date())

    def time(self, instant: datetime) -> str:
        return format_datetime(instant.astimezone(self.program.zone), "short", locale=self.language)

    def _day(self, day: date) -> str:
        return format_date(day, "long", locale=self.language)
