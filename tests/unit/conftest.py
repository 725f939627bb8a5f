"""The unit layer starts nothing and connects to nothing: a test that needs a process is an integration test."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Generator
from typing import Any, NoReturn

import pytest


def _refuse(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("a unit test starts no process and opens no connection: move the test to tests/integration")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail the test that starts a process or connects a socket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", _refuse)
        patch.setattr(os, "fork", _refuse)
        patch.setattr(socket.socket, "connect", _refuse)
        return (yield)
