"""The rules of points against a second implementation: random operations, and no difference after any of them."""

from __future__ import annotations

import pytest

from tests.support.points_walk import walk


def test_the_rules_and_the_model_never_differ() -> None:
    codes = walk(range(25), 120)
    # A walk that grants next to nothing would show nothing.
    assert codes["ok"] > 1_000
    assert {"replayed", "insufficient_points", "hold_expired", "already_reversed", "order_differs"} <= set(codes)


@pytest.mark.long
@pytest.mark.minutes
@pytest.mark.timeout(1_800)
def test_a_million_operations_never_differ_from_the_model() -> None:
    assert sum(walk(range(1_000, 6_000), 200).values()) == 1_000_000
