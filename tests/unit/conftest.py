"""The unit layer starts nothing and connects to nothing: a test that needs a process is an integration test."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.isolation import nothing_started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test that starts a process or connects a socket."""
    with nothing_started():
        return (yield)
