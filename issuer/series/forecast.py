"""Forecast of when a pool will be empty, from what was issued in the last minutes and days. Pure functions.

A pool with a day of history is expected to issue in each hour what the same hour issued on the days before, as long as
the last hour and the last quarter of one did. Otherwise a line through the last minutes is continued: as many of them
as one line describes, so that a step or a bend shortens what is looked at. A line that rises or falls beyond doubt is
followed for as long as it was seen, any other one is a constant. Where there are days before, it is followed for an
hour, and then they are, as much higher or lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Final

WINDOWS: Final = (120, 60, 30, 15)
"""Minutes through which a line is laid: the longest that one line describes."""
LAST: Final = 5
"""Minutes whose mean is taken when no line describes even the shortest window."""
DOUBT: Final = 3.0
SLOPE_DOUBT: Final = 4.5
"""The same for a slope, which is followed far."""
"""Standard errors beyond which a difference is real."""
BEND: Final = 6.0
"""Beyond this ratio of variances two lines describe a window better than one (the F test at about 1 %)."""
MAX_SCALE: Final = 5.0
"""How much more or less than on the days before may be issued for these to say anything about the next hours."""
DAY_H: Final = 24
DAYS: Final = 7
HOUR_S: Final = 3600.0
STEP_S: Final = 600.0
"""Steps through a day."""
HORIZON_S: Final = 366 * 86_400.0
"""Beyond this nothing is forecast."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Codes a minute: `level` now, changing by `slope` a minute for the next `minutes`."""

    level: float
    slope: float = 0.0
    minutes: int = 0

    def at(self, minute: float) -> float:
        return max(0.0, self.level + self.slope * min(minute, self.minutes))


def find_trend(recent: Sequence[int]) -> Trend:
    """Return the trend of counts by minute, the last one the newest."""
    for window in WINDOWS:
        if len(recent) >= window and (line := _Line.through(recent[-window:])).describes_all:
            return line.trend()
    return Trend(fmean(recent[-LAST:])) if recent else Trend(0.0)


@dataclass(frozen=True, slots=True)
class _Line:
    """The line of least squares through counts at the minutes 0, 1, 2, …"""

    counts: Sequence[int]
    middle: float
    mean: float
    slope: float
    squares: float
    """Sum of the squared distances."""

    @classmethod
    def through(cls, counts: Sequence[int]) -> _Line:
        middle, mean = (len(counts) - 1) / 2, fmean(counts)
        spread = sum((x - middle) ** 2 for x in range(len(counts)))
        slope = sum((x - middle) * (y - mean) for x, y in enumerate(counts)) / spread
        squares = sum((y - mean - slope * (x - middle)) ** 2 for x, y in enumerate(counts))
        return cls(counts, middle, mean, slope, squares)

    @property
    def deviation(self) -> float:
        """The standard deviation of a count; of none less than that of events which are independent of each other."""
        size = len(self.counts)
        return sqrt(max(self.squares / (size - 2), self.mean, 1e-9))

    @property
    def error(self) -> float:
        """The standard error of the slope."""
        size = len(self.counts)
        return self.deviation / sqrt(size * (size * size - 1) / 12)

    @property
    def describes_all(self) -> bool:
        """Return whether neither two lines are better, nor the last minutes beside this one."""
        half = len(self.counts) // 2
        newer = _Line.through(self.counts[half:])
        halves = _Line.through(self.counts[:half]).squares + newer.squares
        rest = max(halves / (len(self.counts) - 4), self.mean, 1e-9)
        if (self.squares - halves) / 2 / rest > BEND:
            return False
        # A line whose newer half has another slope has ended, and something else has begun.
        if abs(self.slope) > SLOPE_DOUBT * self.error and abs(newer.slope - self.slope) > abs(self.slope) / 2:
            return False
        last = self.mean + self.slope * (len(self.counts) - 1 - self.middle - (LAST - 1) / 2)
        return abs(fmean(self.counts[-LAST:]) - last) <= DOUBT * self.deviation / sqrt(LAST)

    def trend(self) -> Trend:
        size = len(self.counts)
        if abs(self.slope) <= SLOPE_DOUBT * self.error:
            return Trend(self.mean)
        return Trend(max(0.0, self.mean + self.slope * (size - self.middle)), self.slope, size)


def empty_after_s(
    remaining: int, recent: Sequence[int], hours: Mapping[int, int] | None = None, *, now_s: float = 0.0
) -> float | None:
    """Return the seconds after which `remaining` codes will be issued; None: not within HORIZON_S.

    `recent`: what was issued in each of the last minutes, the last one the newest. `hours`: in each hour of the last
    DAYS days, by its number since 1970; hours without any may be absent. `now_s`: seconds since 1970.
    """
    if remaining <= 0:
        return 0.0
    day = _Day.of(hours or {}, now_s)
    if day is not None and all(day.resembles(recent, now_s, minutes) for minutes in (60, 15)):
        return day.through(remaining, now_s, 0.0)
    trend = find_trend(recent)
    scale = 0.0 if day is None else day.scale_to(trend, now_s)
    left, minutes = float(remaining), 60 if scale else max(60, trend.minutes)
    for minute in range(minutes):
        rate = trend.at(minute + 0.5)
        if left <= rate:
            return (minute + left / rate) * 60
        left -= rate
    if day is not None and scale:
        return day.through(left / scale, now_s, minutes * 60.0)
    rate = trend.at(minutes)
    after_s = (minutes + left / rate) * 60 if rate > 0 else HORIZON_S
    return after_s if after_s < HORIZON_S else None


@dataclass(frozen=True, slots=True)
class _Day:
    """What each hour of a day issued on the days before, on average."""

    hours: Sequence[float]

    @classmethod
    def of(cls, hours: Mapping[int, int], now_s: float) -> _Day | None:
        """Return the day of the days before; None: the pool has issued for less than one."""
        this = int(now_s // HOUR_S)
        known = [hour for hour, count in hours.items() if count and hour < this]
        if not known or min(known) > this - DAY_H:
            return None
        days = range(1, min(DAYS, (this - min(known)) // DAY_H) + 1)
        ahead = [fmean(hours.get(hour - DAY_H * day, 0) for day in days) for hour in range(this, this + DAY_H)]
        return cls([ahead[(hour - this) % DAY_H] for hour in range(DAY_H)])

    def rate(self, at_s: float) -> float:
        """Return the codes a minute at a time: the average of an hour at its middle, a line from each to the next."""
        place = at_s / HOUR_S - 0.5
        hour = int(place // 1)
        share = place - hour
        return (self.hours[hour % DAY_H] * (1 - share) + self.hours[(hour + 1) % DAY_H] * share) / 60

    def resembles(self, recent: Sequence[int], now_s: float, minutes: int) -> bool:
        """Return whether the last minutes issued what they did on the days before, but for chance and a fifth."""
        actual = sum(recent[-minutes:])
        expected = self.rate(now_s - minutes * 30.0) * minutes
        return abs(actual - expected) <= DOUBT * sqrt(max(expected, 1.0) + (0.2 * expected) ** 2)

    def scale_to(self, trend: Trend, now_s: float) -> float:
        """Return how much more this day issues than those before; 0: so much more or less that they say nothing."""
        rate = self.rate(now_s)
        scale = trend.level / rate if rate else 0.0
        return scale if 1 / MAX_SCALE <= scale <= MAX_SCALE else 0.0

    def through(self, left: float, now_s: float, passed_s: float) -> float | None:
        """Return when `left` more codes will be issued, from `passed_s` after now on, if each day is like this one."""
        if (whole := sum(self.hours)) <= 0:
            return None
        passed_s += left // whole * DAY_H * HOUR_S
        left %= whole
        while passed_s < HORIZON_S:
            count = self.rate(now_s + passed_s + STEP_S / 2) * STEP_S / 60
            if left <= count:
                return passed_s + (left / count * STEP_S if count else 0.0)
            left -= count
            passed_s += STEP_S
        return None
