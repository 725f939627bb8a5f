"""The deadlines of a server's connections: one look per interval at all of them instead of a timer for each."""

from __future__ import annotations

import asyncio
import weakref
from typing import Final, Protocol, cast

from uvicorn.server import ServerState


class DeadlineConnection(Protocol):
    """A connection with a deadline in the time of the event loop."""

    deadline: float

    def enforce_deadline(self, now: float) -> None:
        """End what was not completed before the deadline."""
        ...


_swept: Final[weakref.WeakSet[ServerState]] = weakref.WeakSet()


def sweep_deadlines(loop: asyncio.AbstractEventLoop, server: ServerState, interval_s: float) -> None:
    """Enforce the deadlines of a server's connections for as long as it has any."""
    if server in _swept:
        return
    _swept.add(server)

    def look() -> None:
        now = loop.time()
        for connection in cast("list[DeadlineConnection]", list(server.connections)):
            if connection.deadline < now:
                connection.enforce_deadline(now)
        if server.connections:
            loop.call_later(interval_s, look)
        else:
            _swept.discard(server)

    loop.call_later(interval_s, look)
