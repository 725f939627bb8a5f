"""Every scenario once, shortly: `make soak` plays them again and again, for longer and in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import scenarios
from tests.faults.play import SCENARIOS, play
from tests.servers import PostgresServer

assert scenarios.LOADED


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken(name: str, breakable_postgres: PostgresServer, tmp_path: Path) -> None:
    seed = f"{name}/1"
    print(f"seed {seed}")
    played = play(SCENARIOS[name], seed, tmp_path, breakable_postgres)
    assert not played.findings.violations, f"seed {seed}; logs in {tmp_path}"
    assert played.findings.granted > 0
    assert played.findings.in_fault > 0, "no request was in flight at any fault"
