"""lease_tokens.lua: a token bucket by the server's clock, which never grants more tokens than flowed in."""

from __future__ import annotations

import random
from typing import Any

import pytest
import redis

from issuer.contract.keys import limit_key
from issuer.contract.scripts import LEASE_TOKENS
from tests.support.prologues import frozen_clock

KEY = limit_key("key", "1")
CLOCK = "clock"
START_MS = 1_700_000_000_000


class BucketUnderClock:
    """A bucket on a clock that stands still until it is set. The key, which would expire by the real one, stays."""

    def __init__(
        self, client: redis.Redis, interval_us: float, fills_us: float, *, lack_us: int = 0, debt_us: int = 0
    ) -> None:
        self.client = client
        self.arguments = (repr(interval_us), repr(fills_us), lack_us, debt_us)
        self.text = frozen_clock(CLOCK) + LEASE_TOKENS.text
        self.set_clock(0)

    def set_clock(self, ms: int) -> None:
        self.client.set(CLOCK, START_MS + ms)

    def take_and(self, wanted: int, then: str) -> Any:
        """Take tokens and run a command on the key in the same transaction, before any time has passed."""
        with self.client.pipeline() as pipeline:
            pipeline.eval(self.text, 1, KEY, *self.arguments, wanted)
            pipeline.execute_command(then, KEY)
            return pipeline.execute()

    def take(self, wanted: int) -> tuple[int, int, float]:
        """Return the tokens granted, the tokens left, and the ms until there is one more."""
        reply, _ = self.take_and(wanted, "PERSIST")
        assert reply[0] == b"DONE"
        return reply[1], reply[2], reply[3] / 1_000


def test_a_bucket_is_full_at_first_and_fills_evenly(client: redis.Redis) -> None:
    bucket = BucketUnderClock(client, 100_000, 500_000)
    assert bucket.take(0) == (0, 5, 100)
    assert client.exists(KEY) == 0
    assert bucket.take(3) == (3, 2, 100)
    assert bucket.take(3) == (2, 0, 100)
    bucket.set_clock(99)
    assert bucket.take(1) == (0, 0, 1)
    bucket.set_clock(100)
    assert bucket.take(1) == (1, 0, 100)
    bucket.set_clock(10_000)
    assert bucket.take(9) == (5, 0, 100)


def test_a_bucket_is_kept_no_longer_than_until_it_is_full(client: redis.Redis) -> None:
    bucket = BucketUnderClock(client, 100_000, 500_000)
    _, left_ms = bucket.take_and(2, "PTTL")
    assert 200 <= left_ms <= 201


def test_a_lease_is_granted_from_a_bucket_that_lacks_some_tokens(client: redis.Redis) -> None:
    lease, bucket = (
        BucketUnderClock(client, 100_000, 500_000, lack_us=200_000),
        BucketUnderClock(client, 100_000, 500_000),
    )
    assert lease.take(0)[:2] == (0, 3)
    assert bucket.take(0)[:2] == (0, 5)
    assert lease.take(1)[:2] == (1, 2)
    # Nor do other callers get the tokens that it lacked: they may be spent beside what flows in during the lease.
    assert bucket.take(9)[:2] == (2, 0)


def test_debt_is_paid_before_a_token_is_granted_and_has_a_bound(client: redis.Redis) -> None:
    bucket = BucketUnderClock(client, 1_000_000, 2_000_000, debt_us=5_000_000)
    assert [bucket.take(1)[0] for _ in range(4)] == [1, 1, 0, 0]
    # Two tokens owed, so the third second brings the first token.
    assert bucket.take(0) == (0, 0, 3_000)
    bucket.take(1_000)
    bucket.set_clock(1)
    assert bucket.take(0) == (0, 0, 6_000)


def test_a_clock_that_steps_back_empties_the_bucket_at_most(client: redis.Redis) -> None:
    bucket = BucketUnderClock(client, 100_000, 500_000)
    bucket.take(5)
    bucket.set_clock(-3_600_000)
    assert bucket.take(1) == (0, 0, 100)
    bucket.set_clock(-3_600_000 + 100)
    assert bucket.take(1)[0] == 1


@pytest.mark.parametrize(("count", "period_s", "burst"), [(7, 1, 7), (10, 60, 10), (30, 1, 300), (37, 1, 10)])
def test_no_window_has_more_than_flowed_in(client: redis.Redis, count: int, period_s: int, burst: int) -> None:
    interval_us = period_s * 1e6 / count
    bucket = BucketUnderClock(client, interval_us, burst * interval_us)
    dice = random.Random(count)
    granted: list[tuple[int, int]] = []
    now = 0
    for _ in range(150):
        tokens, _, _ = bucket.take(dice.choice([1, 1, 5, burst, 1_000]))
        granted.append((now, tokens))
        now += dice.choice([0, 1, int(interval_us / 1_000) + 1, int(burst * interval_us / 2_000)])
        bucket.set_clock(now)
    for first in range(0, len(granted), 7):
        total = 0
        for at, tokens in granted[first:]:
            total += tokens
            assert total <= burst + (at - granted[first][0]) * 1_000 / interval_us + 1e-3


def test_a_caller_that_always_takes_all_gets_the_whole_rate(client: redis.Redis) -> None:
    bucket = BucketUnderClock(client, 1e6 / 7, 1e6)
    total = 0
    for ms in range(0, 10_051, 50):
        bucket.set_clock(ms)
        total += bucket.take(100)[0]
    assert total == 77
