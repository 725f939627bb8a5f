"""A pytest plugin: how the tests are distributed over the processes of `pytest -n auto --dist loadgroup`."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT: Final = Path(__file__).parents[2]
GROUP: Final = re.compile(r'^pytestmark = .*\bxdist_group\("([^"]+)"\)', re.MULTILINE)
SHARED_FIXTURE: Final = re.compile(r'^@pytest.*\bfixture\(scope="module"|\bshared_(?:api: |app\b)', re.MULTILINE)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two processes a core: most tests wait for a server most of the time."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling | None:
    """Return the scheduler for `--dist loadgroup`: xdist's own one finds no group in the test ids of this pytest."""
    if config.getoption("dist") != "loadgroup":
        return None
    # Tests start in the order of the folders: what takes long comes first.
    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Runs the tests of a group in one process, all other tests in any."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0]) or nodeid


@cache
def group_of(file: str) -> str:
    """Return the group of the tests in a file; empty: each of them may run in any process.

    Tests that share a fixture of their module stay together, so that its servers start once, and so do the modules
    that name the same group. Short tests of a file stay together because it costs more to send one than to run it.
    """
    text = (ROOT / file).read_text()
    if named := GROUP.search(text):
        return named[1]
    return file if file.startswith(("tests/unit/", "tests/source/")) or SHARED_FIXTURE.search(text) else ""
