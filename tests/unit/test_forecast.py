"""The forecast of when a pool will be empty, on simulated days: within a tenth of the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sin, sqrt
from random import Random

import pytest

from issuer.series.forecast import empty_after_s, find_trend
from issuer.series.rates import EVERY_S, MAX_PAUSE_S, History, pause_s

Curve = Callable[[int], float]
"""Codes that are asked for in a minute."""
DAY = 24 * 60


def step(minute: int) -> float:
    """Return 60 a minute, and after 400 minutes 240."""
    return 60.0 if minute < 400 else 240.0


def ramp(minute: int) -> float:
    """Return a rate that rises by 2 a minute from the minute 100 on, to 540."""
    return 40.0 + 2.0 * min(max(0, minute - 100), 250)


def fall(minute: int) -> float:
    """Return a rate that falls to a steady 100."""
    return 100.0 + 3.0 * max(0, 300 - minute)


def day_and_night(minute: int) -> float:
    """Return 100 a minute on average, 185 at the height of the day and 15 in the night."""
    return 100.0 + 85.0 * sin(2 * pi * minute / DAY)


def simulated(curve: Curve, minutes: int) -> list[int]:
    """Return what customers ask for: independent of each other, some of them in crowds."""
    random = Random(curve.__name__)
    return [max(0, round(random.gauss(mean := curve(minute), 1.3 * sqrt(mean)))) for minute in range(minutes)]


def error(counts: list[int], now: int, empty: int) -> float:
    """Return by which part of the time that is left the forecast of the minute `now` is wrong."""
    known = range(max(0, now // 60 - 168), now // 60 + 1)
    hours = {hour: sum(counts[hour * 60 : min(now, hour * 60 + 60)]) for hour in known}
    after_s = empty_after_s(sum(counts[now:empty]), counts[max(0, now - 120) : now], hours, now_s=now * 60.0)
    if after_s is None:
        return 9.0
    return abs(after_s / 60 / (empty - now) - 1)


@pytest.mark.parametrize(
    ("curve", "times"),
    [
        # From a quarter of an hour behind the step on; before it the future is not in the past.
        pytest.param(step, [(n, 900) for n in range(415, 890, 5)], id="step"),
        # As far ahead as the ramp was seen, and at most two hours; not over the end of the ramp.
        pytest.param(ramp, [(n, 348) for n in range(225, 345, 5)], id="ramp"),
        pytest.param(ramp, [(n, 800) for n in range(380, 795, 5)], id="ramp-is-over"),
        pytest.param(fall, [(n, 900) for n in range(330, 895, 5)], id="fall-is-over"),
        # With one day of history and with a week, from five minutes to days ahead, at any time of day.
        pytest.param(day_and_night, [(n, 3 * DAY + 700) for n in range(DAY + 60, 3 * DAY + 695, 35)], id="days"),
        pytest.param(day_and_night, [(n, n + 2000) for n in range(7 * DAY, 8 * DAY, 45)], id="week-far"),
        pytest.param(day_and_night, [(n, n + 45) for n in range(7 * DAY, 8 * DAY, 45)], id="week-near"),
    ],
)
def test_the_forecast_is_right_within_a_tenth(curve: Curve, times: list[tuple[int, int]]) -> None:
    counts = simulated(curve, max(empty for _, empty in times) + 1)
    errors = {times_: error(counts, *times_) for times_ in times}
    assert {times_: round(found, 3) for times_, found in errors.items() if found > 0.1} == {}


def test_what_does_not_end_has_no_forecast() -> None:
    assert empty_after_s(10, []) is None
    assert empty_after_s(10, [0] * 120) is None
    assert empty_after_s(0, [0] * 120) == 0.0
    # A pool with a day of history that has stopped: paused, say.
    assert empty_after_s(10, [0] * 120, dict.fromkeys(range(100), 500), now_s=100 * 3600.0) is None
    assert empty_after_s(10**12, [5] * 120, dict.fromkeys(range(100), 300), now_s=100 * 3600.0) is None


def test_steady_traffic_has_no_slope_and_few_codes_a_forecast() -> None:
    trend = find_trend([7, 5, 6, 8] * 30)
    assert (trend.level, trend.slope) == (6.5, 0.0)
    after_s = empty_after_s(3, [0, 0, 1, 0, 0] * 24)
    assert after_s is not None
    assert 10 <= after_s / 60 <= 20


def test_the_rate_of_a_minute_does_not_wait_for_its_end() -> None:
    history = History({9: 60, 10: 30})
    # Half of the minute 10 and half of the one before, but for what is not written yet.
    assert history.rate_per_s(10 * 60 + 30 + 2.5) == pytest.approx(1.0)
    assert history.rate_per_s(11 * 60) == pytest.approx(0.5)
    assert history.recent(11 * 60 + 1.0)[-2:] == [0, 60]
    assert history.recent(11 * 60 + 7.0)[-2:] == [60, 30]


def test_rates_take_a_twentieth_of_the_time_and_stay_fresh() -> None:
    assert pause_s(0.1) < EVERY_S
    assert pause_s(1.0) == 20.0
    assert pause_s(100.0) == MAX_PAUSE_S
