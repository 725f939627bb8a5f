"""What keeps tests of the unit layer inside the test process."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest


def _refuse(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("a unit test starts no process and opens no connection: move the test to tests/integration")


@contextmanager
def nothing_started() -> Iterator[None]:
    """Fail the test that starts a process or connects a socket within the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", _refuse)
        patch.setattr(os, "fork", _refuse)
        patch.setattr(socket.socket, "connect", _refuse)
        yield
