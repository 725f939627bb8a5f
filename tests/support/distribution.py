"""A pytest plugin: how the tests are distributed over the processes of `pytest -n auto --dist loadgroup`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

UNIT: Final = Path(__file__).parents[1] / "unit"
SHARED_SCOPES: Final = ("module", "class")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two processes a core: most tests wait for a server most of the time."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share a module's fixture in one process, so that its servers start once; unit files as well."""
    for item in items:
        if isinstance(item, pytest.Function) and (item.path.is_relative_to(UNIT) or shares_a_fixture(item)):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def shares_a_fixture(item: pytest.Function) -> bool:
    """Whether the test uses a fixture that other tests of its module use too."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(definition.scope in SHARED_SCOPES for found in definitions for definition in found)
