"""A pytest plugin: how the tests are distributed over the processes of `pytest -n auto --dist loadgroup`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

UNIT: Final = Path(__file__).parents[1] / "unit"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two processes a core: most tests wait for a server most of the time."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a fixture of a module or a package in one process, so that its servers start once.

    A file of unit tests stays together as well: to send each of its tests to another process costs more than to run it.
    """
    for item in items:
        if isinstance(item, pytest.Function) and (group := group_of(item)):
            item.add_marker(pytest.mark.xdist_group(group))


def group_of(item: pytest.Function) -> str:
    """Return the name of the tests that must run in the same process; empty: this one may run in any."""
    definitions = [definition for found in item._fixtureinfo.name2fixturedefs.values() for definition in found]
    packages = {definition.baseid for definition in definitions if definition.scope == "package"}
    if packages:
        return min(packages).rpartition("/")[2]
    if item.path.is_relative_to(UNIT) or any(definition.scope in ("module", "class") for definition in definitions):
        return item.path.stem
    return ""
