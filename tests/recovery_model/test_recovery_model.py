"""The design of the recovery holds in the model, and no rule of it can be left out."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.recovery_model.rules import ALL_FAULTS, BOUNDS, RULES
from tests.recovery_model.scenes import SCENES
from tests.recovery_model.search import Explored, Violation, search, walk


@pytest.fixture(autouse=True)
def _restored_bounds() -> Iterator[None]:
    yield
    BOUNDS.menu, BOUNDS.faults, BOUNDS.without = ALL_FAULTS, 2, set()


@pytest.mark.long
def test_one_fault_breaks_no_promise() -> None:
    BOUNDS.faults = 1
    result = search(max_states=8_000, seconds=900.0)
    assert isinstance(result, Explored), str(result)
    assert result.states >= 8_000


@pytest.mark.long
def test_random_walks_with_four_faults_break_no_promise() -> None:
    BOUNDS.faults = 4
    rng = random.Random(1)
    for number in range(300):
        violation = walk(rng, 80)
        assert violation is None, f"walk {number}: {violation}"


@pytest.mark.long
@pytest.mark.minutes
@pytest.mark.parametrize("rule", RULES)
def test_a_promise_is_broken_without_the_rule(rule: str) -> None:
    scene = SCENES[rule]
    BOUNDS.without, BOUNDS.menu, BOUNDS.faults = {rule}, scene.menu, scene.faults
    result = search(seconds=600.0, rest_every=4, prefix=scene.prefix)
    assert isinstance(result, Violation), str(result)
