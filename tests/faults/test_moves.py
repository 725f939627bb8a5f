"""At every step of a points move two parts are killed; `python -m tests.faults.move_kills` kills all, more often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.move_kills import VICTIMS, kill_moves
from tests.support.failpoints import STEPS
from tests.support.servers import PostgresServer


@pytest.mark.long
@pytest.mark.minutes
def test_a_move_is_done_or_undone_whatever_is_killed_between_its_steps(
    breakable_postgres: PostgresServer, tmp_path: Path
) -> None:
    api, *others = VICTIMS
    plan = [(step, victim) for n, step in enumerate(STEPS) for victim in (api, others[n % len(others)])]
    result = kill_moves(tmp_path, breakable_postgres, plan, seed="1")
    print(result)
    assert not result.violations, f"logs in {tmp_path}"
    assert set(result.kills) == set(plan)
    assert result.outcomes.keys() >= {"purchase done", "purchase undone", "transfer done"}
