"""Every scenario once, shortly: `make soak` plays them again and again, for longer and in any order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import scenarios
from tests.faults.play import SCENARIOS, Played, play
from tests.support.servers import PostgresServer

assert scenarios.LOADED

AT_LEAST_IN_FLIGHT = 0.005
"""Of all requests. One scenario alone can miss every one: during a recovery they are refused within a millisecond."""


@pytest.fixture(scope="module")
def all_played() -> Iterator[list[Played]]:
    """What was played; afterwards, when that was most of it: whether the faults met requests at all."""
    played: list[Played] = []
    yield played
    if len(played) > len(SCENARIOS) // 2:
        in_flight = sum(one.findings.in_fault for one in played)
        assert in_flight >= AT_LEAST_IN_FLIGHT * sum(one.findings.requests for one in played)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken(
    name: str, breakable_postgres: PostgresServer, tmp_path: Path, all_played: list[Played]
) -> None:
    seed = f"{name}/1"
    print(f"seed {seed}")
    played = play(SCENARIOS[name], seed, tmp_path, breakable_postgres)
    assert not played.findings.violations, f"seed {seed}; logs in {tmp_path}"
    assert played.findings.granted > 0
    all_played.append(played)
