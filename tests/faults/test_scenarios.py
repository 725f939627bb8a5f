"""Run scenarios once, with one round: a few in `make test`, the others in `make test-long`.

`make soak` runs them repeatedly, with more rounds, in random order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import all_scenarios
from tests.faults.scenario import SCENARIOS, ScenarioResult, run_scenario
from tests.support.servers import PostgresServer

assert all_scenarios.LOADED

MIN_SHARE_IN_FLIGHT = 0.005
"""Share of all requests that must be in flight at a fault. In a single scenario there may be none, because during a
recovery requests are refused within a millisecond."""


SHORT_ROUND = {"redis_wiped", "worker_killed_before_ack"}
"""A lost store and a killed process."""


@pytest.fixture(scope="module")
def all_results() -> Iterator[list[ScenarioResult]]:
    """Collect the results; if most scenarios ran, check at the end that the faults met requests in flight."""
    results: list[ScenarioResult] = []
    yield results
    if len(results) > len(SCENARIOS) // 2:
        in_flight = sum(one.findings.in_fault for one in results)
        assert in_flight >= MIN_SHARE_IN_FLIGHT * sum(one.findings.requests for one in results)


def test_the_short_round_names_scenarios() -> None:
    assert SCENARIOS.keys() >= SHORT_ROUND


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT_ROUND else pytest.mark.long) for name in SCENARIOS]
)
def test_no_promise_is_broken(
    name: str, breakable_postgres: PostgresServer, tmp_path: Path, all_results: list[ScenarioResult]
) -> None:
    seed = f"{name}/1"
    print(f"seed {seed}")
    result = run_scenario(SCENARIOS[name], seed, tmp_path, breakable_postgres)
    assert not result.findings.violations, f"seed {seed}; logs in {tmp_path}"
    assert result.findings.granted > 0
    all_results.append(result)
