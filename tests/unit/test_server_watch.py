"""The watch on a Redis server: which readings of clocks agree, and what stops issuing."""

from __future__ import annotations

import time

import pytest

from issuer.engine.clocks import MAX_DEADLINE_MS, PartitionClocks
from issuer.storage.server_watch import FRESH_S, MAX_APART_MS, ClockReading, ServerWatch, Stop

NOW_MS = 1_800_000_000_000.0


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, in seconds."""
    at = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


def reading(ahead_ms: float, *, took_s: float = 0.0) -> ClockReading:
    """What a clock that is ahead of the true time showed in an exchange that ends now."""
    now_s = time.monotonic()
    return ClockReading.of(NOW_MS + now_s * 1000 + ahead_ms, now_s - took_s, now_s)


@pytest.mark.parametrize("ahead_ms", [5_001, -5_001, 3_600_000, -3_600_000])
def test_a_clock_that_is_apart_from_that_of_postgres_is_not_right(monotonic: list[float], ahead_ms: float) -> None:
    watch, heard = ServerWatch(), list[str]()
    watch.on_stop(lambda: heard.append(watch.stopped))
    watch.note_postgres(reading(0))
    assert watch.judge_clock(reading(0))
    assert not watch.judge_clock(reading(ahead_ms))
    assert Stop.CLOCK in watch.stops
    assert (Stop.LOST_KEYS in watch.stops) is (ahead_ms > 0)
    assert "Redis' clock is" in heard[-1]
    assert watch.judge_clock(reading(ahead_ms / abs(ahead_ms) * 5_000))
    watch.note_rebuilt()
    assert not watch.stops


def test_postgres_confirms_a_clock_that_was_set_right(monotonic: list[float]) -> None:
    """Also when both step together: one machine has both."""
    watch = ServerWatch()
    watch.note_postgres(reading(0))
    assert not watch.judge_clock(reading(-3_600_000))
    watch.note_postgres(reading(-3_600_000))
    assert watch.judge_clock(reading(-3_600_000))
    # Postgres' clock is wrong now. Redis' has not moved, so nothing has expired early.
    watch.note_postgres(reading(-7_200_000))
    assert not watch.judge_clock(reading(-3_600_000))
    assert set(watch.stops) == {Stop.CLOCK}


def test_without_postgres_a_clock_is_compared_with_what_it_was(monotonic: list[float]) -> None:
    watch = ServerWatch()
    watch.note_postgres(reading(0))
    assert watch.judge_clock(reading(0))
    monotonic[0] += FRESH_S
    assert watch.judge_clock(reading(4_000))
    assert watch.judge_clock(reading(8_000))
    assert not watch.judge_clock(reading(14_000))
    assert not watch.judge_clock(reading(0))
    assert watch.judge_clock(reading(4_000))


def test_a_slow_exchange_shows_no_jump(monotonic: list[float]) -> None:
    watch, clocks = ServerWatch(), PartitionClocks()
    watch.note_postgres(reading(0))
    assert watch.judge_clock(reading(-20_000, took_s=16))
    assert not watch.judge_clock(reading(-20_000, took_s=14))
    clocks.set_all(1, reading(0))
    before_ms = clocks.deadline_ms(0, 1)
    assert clocks.correct(0, round(NOW_MS + time.monotonic() * 1000 - 20_000), time.monotonic() - 30)
    assert clocks.deadline_ms(0, 1) == before_ms


@pytest.mark.parametrize(("ahead_ms", "follows"), [(4_999, True), (-4_999, True), (5_001, False), (-5_001, False)])
def test_a_partition_follows_a_small_step_only(monotonic: list[float], ahead_ms: int, follows: bool) -> None:
    clocks = PartitionClocks()
    clocks.set_all(2, reading(0))
    before_ms = clocks.deadline_ms(1, 1)
    now_s = time.monotonic()
    assert clocks.correct(1, round(NOW_MS + now_s * 1000) + ahead_ms, now_s) is follows
    assert clocks.deadline_ms(1, 1) == before_ms + (ahead_ms if follows else 0)


def test_no_deadline_is_so_far_ahead_that_a_wrong_clock_could_meet_it(monotonic: list[float]) -> None:
    clocks = PartitionClocks()
    clocks.set_all(1, reading(0))
    assert clocks.deadline_ms(0, 10) == NOW_MS + monotonic[0] * 1000 + MAX_DEADLINE_MS
    assert MAX_DEADLINE_MS < MAX_APART_MS


def test_only_the_eviction_policy_that_deletes_nothing_is_right() -> None:
    watch = ServerWatch()
    assert not watch.judge_policy("volatile-lru", evicted=0)
    assert set(watch.stops) == {Stop.EVICTION_POLICY}
    assert watch.judge_policy("noeviction", evicted=3)
    assert set(watch.stops) == {Stop.LOST_KEYS}
