"""The clock of a server, which a test steps while the server runs."""

from __future__ import annotations

from pathlib import Path

from tests.support.programs import require
from tests.support.servers import ServerProcess

LIBRARY = "lib/*/faketime/libfaketime.so.1"


class ServerClock:
    """What libfaketime shows a server as the time. Give it to a server before that starts."""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "clock"
        prefix = require("faketime").parents[1]
        (self._library,) = prefix.glob(LIBRARY)

    def give_to(self, server: ServerProcess) -> None:
        self.step(0)
        server.environment |= {
            "LD_PRELOAD": str(self._library), "FAKETIME_TIMESTAMP_FILE": str(self._offset), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def step(self, seconds: float) -> None:
        """Let the server's clock be this far ahead of the true time, from the next look at it on."""
        written = self._offset.with_name("clock.new")
        written.write_text(f"{seconds:+f}\n")
        written.rename(self._offset)
